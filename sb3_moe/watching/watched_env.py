"""The environment in which an agent is watched: it plays every task, with images if possible."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from sb3_moe.saving.snapshot import preserved_generators
from sb3_moe.vec_env.make import (
    evaluation_copies,
    make_pinned_env,
    render_mode_for_copy,
    synchronize,
    why_not_rebuildable,
    why_not_rewrappable,
    wrap_like,
)
from sb3_moe.vec_env.tasks import check_tasks, task_names, tasks_known

# Wrappers that are left out when an environment is built again: HumanRendering and
# RenderCollection draw differently, RecordVideo overwrites training's films.
DROPPED_WRAPPERS = ("HumanRendering", "RecordVideo", "RenderCollection")
# Wrappers whose running statistics a copy would lack.
NORMALIZERS = ("NormalizeObservation", "NormalizeReward")
IMAGES = "rgb_array"
NOT_ASKED = "no images were asked for"
NO_MODE = "the environment was built without render_mode='rgb_array'"


class WatchedEnv(NamedTuple):
    """Where an agent is watched.

    :param env: the environment
    :param names: of its tasks
    :param side_by_side: each task has an environment of its own; else tasks are played in turn
    :param no_frames: why there are no images; None if there are
    """

    env: VecEnv
    names: list[str]
    side_by_side: bool
    no_frames: str | None


@contextmanager
def watched_env(
    model: BaseAlgorithm,
    env: GymEnv | str | None,
    frames: bool,
    episodes: int | None = None,
) -> Iterator[WatchedEnv]:
    """Find or build an environment to watch a model in, and leave everything as it was.

    An environment of :func:`sb3_moe.make_multitask_vec_env` is built again, with images and with
    environments for each task. The model's own is built again too, since training goes on in it.
    Any other is played as it is. Observations are normalized as in the model's own environment.

    :param model: an SB3 model
    :param env: any that the model takes; None: the model's own
    :param frames: whether images are wanted
    :param episodes: of each task, for which it may have several environments; None: it has one
    :raises ValueError: if there is no environment, its tasks or spaces aren't the model's, it
        normalizes observations otherwise than the model's own, or it is the model's own and can't
        be built again
    """
    own_env = model.get_env()
    venv = own_env if env is None else model._wrap_env(maybe_make_env(env, 0), verbose=0)
    if venv is None:
        raise ValueError("`env` must be given, since the model has no environment of its own")
    check_tasks(tasks_known(model), venv)
    check_for_correct_spaces(venv, model.observation_space, model.action_space)
    build = None
    side_by_side = why_not_rebuildable(venv) is None
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
            if normalizer is not None:
                normalizer.training = normalizer.norm_reward = False
            yield WatchedEnv(played, task_names(played), side_by_side, no_frames)
        finally:
            if build is not None or isinstance(env, str):
                with suppress(Exception):  # an environment that can't draw may fail to close
                    played.close()
            elif normalizer is not None:
                vars(normalizer).update(held)


def seed_everything(model: BaseAlgorithm, env: VecEnv, seed: int) -> None:
    """Seed the environments and the generators from which actions are drawn.

    :param model: its action space keeps its generator, whose state is set
    :param env: takes the seed at its next reset
    :param seed: of all of them
    """
    set_random_seed(seed)
    fresh, _ = gym.utils.seeding.np_random(seed)
    model.action_space.np_random.bit_generator.state = fresh.bit_generator.state
    env.seed(seed)


def in_one_line(error: Exception) -> str:
    """Say in one line why drawing failed."""
    if isinstance(error, NotImplementedError):
        return "a task draws nothing with render_mode='rgb_array'"
    return " ".join(str(error).split()) or f"drawing raised {type(error).__name__}"


def _innermost(env: VecEnv) -> set[int]:
    """Return the ids of the single environments: SB3 may put the same ones into another vector."""
    vector = env.unwrapped
    parts = vector.envs if isinstance(vector, DummyVecEnv) else [vector]
    return {id(each.unwrapped) for each in parts}


def _played(
    venv: VecEnv, build: Callable[..., VecEnv] | None, frames: bool
) -> tuple[VecEnv, str | None]:
    """Return the environment to play, and why it has no images (None if it has)."""
    if frames:  # else pygame looks for a sound device, and ALSA prints that there is none
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        if not {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ} and sys.platform == "linux":
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame needs no screen then
    if build is None:
        no_frames = None if venv.unwrapped.render_mode == IMAGES else NO_MODE
        return venv, no_frames if frames else NOT_ASKED
    if not frames:
        return build(), NOT_ASKED
    try:
        return build(render_mode=IMAGES), None
    except Exception as error:  # a task that can't draw may raise anything
        return build(), in_one_line(error)


def _again(env: VecEnv, *, render_mode: str | None = None) -> VecEnv:
    """Build another environment like one that Gymnasium knows how to make.

    :raises ValueError: if Gymnasium can't make it, or a wrapper can't be copied
    """
    spec: Any = env.get_attr("spec")[0] if env.has_attr("spec") else None
    all_wrappers = () if spec is None else spec.additional_wrappers
    # Monitor, which doesn't record its arguments, stays in its place: returns are those it sees.
    wrappers = tuple(
        replace(each, kwargs={}) if each.name == "Monitor" else each
        for each in all_wrappers
        if each.name not in DROPPED_WRAPPERS
    )
    unknown = [each.name for each in wrappers if each.kwargs is None]
    why = why_not_rewrappable(env)
    if spec is None or spec.id not in gym.registry:
        why = why or "gymnasium.make didn't build it"
    elif "vectorization_mode" in spec.kwargs:
        why = why or "gymnasium.make_vec built it"
    elif unknown:
        why = why or f"{unknown[0]} around it doesn't record its arguments"
    elif running := [each.name for each in wrappers if each.name in NORMALIZERS]:
        why = why or f"{running[0]} around it has running statistics (SB3's VecNormalize works)"
    if why:
        raise ValueError(f"`env` must be given, since the model's own can't be built again: {why}")
    spec = replace(spec, additional_wrappers=wrappers)
    mode = dict[str, Any]()
    # Classes of environments need not take a `render_mode`.
    if render_mode is not None or "render_mode" in spec.kwargs:
        mode["render_mode"] = render_mode or render_mode_for_copy(spec.kwargs.get("render_mode"))

    def make() -> gym.Env:
        made = gym.make(spec, **mode)
        return made if is_wrapped(made, Monitor) else Monitor(made)

    return wrap_like(DummyVecEnv([make]), env)
