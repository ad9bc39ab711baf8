"""The environment in which an agent is watched: every task, with images where they can be had."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.wrappers import HumanRendering, RecordVideo, RenderCollection
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from sb3_moe.saving.snapshot import preserved_generators
from sb3_moe.vec_env.make import (
    evaluation_copies,
    make_pinned_env,
    mode_again,
    not_built_again_since,
    not_wrapped_again_since,
    synchronize,
    wrap_like,
)
from sb3_moe.vec_env.tasks import check_tasks, task_names, tasks_known

# Wrappers that come by themselves, draw otherwise, or film over training's own files.
NOT_AGAIN = tuple(
    f"{each.__module__}:{each.__name__}"
    for each in (Monitor, HumanRendering, RecordVideo, RenderCollection)
)
IMAGES = "rgb_array"
NOT_ASKED = "no pictures were asked for"
NO_MODE = "the environment was built without render_mode='rgb_array'"


class WatchedEnv(NamedTuple):
    """Where an agent is watched.

    :param env: the environment
    :param names: of its tasks
    :param side_by_side: each task has an environment of its own; else they come one after another
    :param no_frames: why there are no images; None if there are
    """

    env: VecEnv
    names: list[str]
    side_by_side: bool
    no_frames: str | None


@contextmanager
def watched_env(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv | str | None,
    frames: bool,
    episodes: int | None = None,
) -> Iterator[WatchedEnv]:
    """Find or build what a model can be watched on, and leave everything as it was.

    An environment of :func:`sb3_moe.make_multitask_vec_env` is built again, with images and an
    environment for each task, and so is the model's own, where training goes on; others are played
    as they are. Observations are normalized as the model's own environment does it.

    :param model: an SB3 model
    :param env: as the model takes it; None: the model's own
    :param frames: whether images are wanted
    :param episodes: of each task, which several environments may share; None: one for each task
    :raises ValueError: if there is none, its tasks aren't the model's, only one of it and the
        model's own normalizes observations, or it is the model's own and can't be built again
    """
    own_env = model.get_env()
    venv = own_env if env is None else model._wrap_env(maybe_make_env(env, 0), verbose=0)
    if venv is None:
        raise ValueError("`env` must be given, since the model has no environment of its own")
    check_tasks(tasks_known(model), venv)
    build: Callable[..., VecEnv] | None = None
    side_by_side = not_built_again_since(venv) is None
    if side_by_side:
        build = partial(make_pinned_env, venv, evaluation_copies(venv, episodes) if episodes else 1)
    elif own_env is not None and not _innermost(venv).isdisjoint(_innermost(own_env)):
        build = partial(_again, venv)
    with preserved_generators(model.action_space.np_random):
        played, no_frames = _played(venv, build, frames)
        normalizer = unwrap_vec_normalize(played)
        held = dict(vars(normalizer)) if normalizer is not None else {}
        try:
            synchronize(venv if own_env is None else own_env, played)
            yield WatchedEnv(played, task_names(played), side_by_side, no_frames)
        finally:
            if build is not None or isinstance(env, str):
                with suppress(Exception):  # what can't draw may not close either
                    played.close()
            elif normalizer is not None:
                vars(normalizer).update(held)


def seed_everything(model: BaseAlgorithm, env: VecEnv, seed: int) -> None:
    """Seed the environments and the generators from which actions are drawn.

    :param model: whose action space keeps its generator, in another state
    :param env: takes the seed at its next reset
    :param seed: of all of them
    """
    set_random_seed(seed)
    fresh, _ = gym.utils.seeding.np_random(seed)
    model.action_space.np_random.bit_generator.state = fresh.bit_generator.state
    env.seed(seed)


def in_one_line(error: Exception) -> str:
    """Say why there are no images."""
    if isinstance(error, NotImplementedError):
        return "a task draws nothing with render_mode='rgb_array'"
    return " ".join(str(error).split()) or f"drawing raised {type(error).__name__}"


def _innermost(env: VecEnv) -> set[int]:
    """Identify what an environment steps: SB3 puts the same one into a new vector each time."""
    vector = env.unwrapped
    parts = vector.envs if isinstance(vector, DummyVecEnv) else [vector]
    return {id(each.unwrapped) for each in parts}


def _played(
    venv: VecEnv, build: Callable[..., VecEnv] | None, frames: bool
) -> tuple[VecEnv, str | None]:
    """Give the environment to play, and why it has no images if it has none."""
    if frames:  # pygame would look for what plays sounds, and ALSA print that there is nothing
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        if not {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ} and sys.platform == "linux":
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # and for a screen
    if build is None:
        no_frames = None if venv.unwrapped.render_mode == IMAGES else NO_MODE
        return venv, no_frames if frames else NOT_ASKED
    if not frames:
        return build(), NOT_ASKED
    try:
        return build(render_mode=IMAGES), None
    except Exception as error:  # what a task can't draw, or lacks for it, is its own to say
        return build(), in_one_line(error)


def _again(env: VecEnv, *, render_mode: str | None = None) -> VecEnv:
    """Build another environment like one that Gymnasium knows how to make.

    :raises ValueError: if it doesn't
    """
    spec: Any = env.get_attr("spec")[0] if env.has_attr("spec") else None
    all_wrappers = () if spec is None else spec.additional_wrappers
    wrappers = tuple(each for each in all_wrappers if each.entry_point not in NOT_AGAIN)
    unknown = [f"{each.name} around it" for each in wrappers if each.kwargs is None]
    if spec is None or spec.id not in gym.registry:
        unknown = ["it"]
    why = not_wrapped_again_since(env)
    if unknown or why:
        raise ValueError(
            "`env` must be given, and another than the model's own, which is training's: "
            + (why or f"{unknown[0]} doesn't say how another one is built")
        )
    spec, mode = replace(spec, additional_wrappers=wrappers), dict[str, Any]()
    # A class of one's own need not take any.
    if render_mode is not None or "render_mode" in spec.kwargs:
        mode["render_mode"] = render_mode or mode_again(spec.kwargs.get("render_mode"))
    makers: list[Callable[[], gym.Env[Any, Any]]] = [lambda: Monitor(gym.make(spec, **mode))]
    return wrap_like(DummyVecEnv(makers), env)
