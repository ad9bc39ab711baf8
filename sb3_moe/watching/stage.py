"""What a replay is played on: every task, with pictures where they can be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_moe.evaluation.pinned_env import (
    evaluation_copies,
    make_pinned_env,
    not_built_again_since,
    synchronise,
    wrap_like,
)
from sb3_moe.tasks.known import check_tasks, tasks_known
from sb3_moe.tasks.of_env import task_names

MONITOR = f"{Monitor.__module__}:{Monitor.__name__}"
PICTURES = "rgb_array"
NOT_ASKED = "no pictures were asked for"
NO_MODE = "the environment was built without render_mode='rgb_array'"


class Stage(NamedTuple):
    """Where an agent is watched.

    :param env: the environment
    :param names: of its tasks
    :param side_by_side: each task has a copy of its own; else they come one after another
    :param is_own: whether it was built for the replay, and is to be closed
    :param no_frames: why there are no pictures; None if there are
    """

    env: VecEnv
    names: list[str]
    side_by_side: bool
    is_own: bool
    no_frames: str | None


def stage_for(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv | str | None,
    frames: bool,
    episodes: int | None = None,
) -> Stage:
    """Find or build what a model can be watched on.

    What :func:`sb3_moe.make_multitask_vec_env` built is built again, with pictures and a copy for
    each task; other environments are played as they are.

    :param model: an SB3 model
    :param env: as the model takes it; None: the model's own
    :param frames: whether pictures are wanted
    :param episodes: of each task, which copies of it are to share; None: one copy of each
    :raises ValueError: if there is none, or its tasks aren't the model's
    """
    venv = model.get_env() if env is None else model._wrap_env(maybe_make_env(env, 0), verbose=0)
    if venv is None:
        raise ValueError("`env` must be given, since the model has no environment of its own")
    check_tasks(tasks_known(model), venv)
    tasks_apart = not_built_again_since(venv) is None
    if tasks_apart or env is None:
        copies = evaluation_copies(venv, episodes) if episodes and tasks_apart else 1
        build = partial(make_pinned_env, venv, copies) if tasks_apart else partial(_again, venv)
        own, no_frames = _built(build, frames)
        synchronise(venv, own)
        return Stage(own, task_names(own), tasks_apart, True, no_frames)
    no_frames = None if _mode(venv) == PICTURES else NO_MODE
    return Stage(
        venv, task_names(venv), False, isinstance(env, str), no_frames if frames else NOT_ASKED
    )


def seed_generators(model: BaseAlgorithm, seed: int) -> None:
    """Seed what actions are drawn from, within ``preserved_generators(action_space.np_random)``.

    :param model: whose action space keeps its generator, in another state
    :param seed: of all of them
    """
    set_random_seed(seed)
    fresh, _ = gym.utils.seeding.np_random(seed)
    model.action_space.np_random.bit_generator.state = fresh.bit_generator.state


def _again(env: VecEnv, *, render_mode: str | None = None) -> VecEnv:
    """Build one copy of an environment that Gymnasium knows how to make, to leave training's be.

    :raises ValueError: if it doesn't
    """
    spec = env.get_attr("spec")[0] if env.has_attr("spec") else None
    if spec is None or spec.id not in gym.registry:
        raise ValueError(
            "`env` must be given: the model's own environment is training's, and it doesn't say "
            "how another one is built"
        )
    # SB3 puts its Monitor around what it makes, and one that can't be made again comes by itself.
    others = tuple(each for each in spec.additional_wrappers if each.entry_point != MONITOR)
    spec = replace(spec, additional_wrappers=others)
    again: list[Callable[[], gym.Env[Any, Any]]] = [
        lambda: Monitor(gym.make(spec, render_mode=render_mode))
    ]
    return wrap_like(DummyVecEnv(again), env)


def _mode(env: VecEnv) -> str | None:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env.render_mode


def _built(build: Callable[..., VecEnv], frames: bool) -> tuple[VecEnv, str | None]:
    """Build an environment, and say why it has no pictures if it has none."""
    if not frames:
        return build(), NOT_ASKED
    try:
        return build(render_mode=PICTURES), None
    # What a task can't draw, or lacks for it, is its own to say.
    except (ValueError, TypeError, ImportError, gym.error.Error) as error:
        why = str(error)
    return build(), why
