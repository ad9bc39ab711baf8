"""What a replay is played on: every task, with pictures where they can be had."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.wrappers import HumanRendering, RecordVideo, RenderCollection
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    unwrap_vec_normalize,
)

from sb3_moe.vec_env.evaluating import random_actions, takes_masks
from sb3_moe.vec_env.make import (
    evaluation_copies,
    kind_of_normaliser,
    make_pinned_env,
    mode_again,
    normalises_observations,
    not_built_again_since,
    not_wrapped_again_since,
    synchronise,
    wrap_like,
)
from sb3_moe.vec_env.tasks import check_tasks, task_names, tasks_known
from sb3_moe.watching.pictures import as_frame
from sb3_moe.watching.replay import Frame

# What comes by itself, draws otherwise, or films over training's own files.
NOT_AGAIN = tuple(
    f"{each.__module__}:{each.__name__}"
    for each in (Monitor, HumanRendering, RecordVideo, RenderCollection)
)
PICTURES = "rgb_array"
NOT_ASKED = "no pictures were asked for"
NO_MODE = "the environment was built without render_mode='rgb_array'"
OBSERVES_OTHERWISE = "with render_mode='rgb_array' the agent would observe something else"


class Stage(NamedTuple):
    """Where an agent is watched.

    :param env: the environment
    :param names: of its tasks
    :param side_by_side: each task has a copy of its own; else they come one after another
    :param is_own: whether it was built for the replay, and is to be closed
    :param no_frames: why there are no pictures; None if there are
    :param borrowed: the normaliser of an environment that is played as it is, and what it held
    """

    env: VecEnv
    names: list[str]
    side_by_side: bool
    is_own: bool
    no_frames: str | None
    borrowed: tuple[VecNormalize, dict[str, Any]] | None = None

    def leave(self) -> None:
        """Close what was built for the replay, and leave anything else as it was."""
        if self.is_own:
            self.env.close()
        elif self.borrowed is not None:
            normaliser, held = self.borrowed
            vars(normaliser).update(held)


def stage_for(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv | str | None,
    frames: bool,
    episodes: int | None = None,
) -> Stage:
    """Find or build what a model can be watched on.

    What :func:`sb3_moe.make_multitask_vec_env` built is built again, with pictures and a copy for
    each task, and so is the model's own environment, since training goes on from where it is;
    other environments are played as they are. Observations are normalised as the model's own
    environment does it, if it has one that does; nothing learns from the replay.

    :param model: an SB3 model
    :param env: as the model takes it; None: the model's own
    :param frames: whether pictures are wanted
    :param episodes: of each task, which copies of it are to share; None: one copy of each
    :raises ValueError: if there is none, its tasks aren't the model's, only one of it and the
        model's own normalises observations, or it is the model's own and can't be built again
    """
    own_env = model.get_env()
    venv = own_env if env is None else model._wrap_env(maybe_make_env(env, 0), verbose=0)
    if venv is None:
        raise ValueError("`env` must be given, since the model has no environment of its own")
    check_tasks(tasks_known(model), venv)
    source = venv if own_env is None else own_env
    _check_normalised_alike(source, venv)
    tasks_apart = not_built_again_since(venv) is None
    if tasks_apart or (own_env is not None and _step_the_same(venv, own_env)):
        copies = evaluation_copies(venv, episodes) if episodes and tasks_apart else 1
        build = partial(make_pinned_env, venv, copies) if tasks_apart else partial(_again, venv)
        own, no_frames = _built(model, venv, build, frames)
        _normalise_as(source, own)
        return Stage(own, task_names(own), tasks_apart, True, no_frames)
    no_frames = None if _mode(venv) == PICTURES else NO_MODE
    borrowed = _normalise_as(source, venv)
    return Stage(
        venv,
        task_names(venv),
        False,
        isinstance(env, str),
        no_frames if frames else NOT_ASKED,
        borrowed,
    )


def _step_the_same(env: VecEnv, other: VecEnv) -> bool:
    """Say whether a step of one environment is a step of another, whatever wrappers they have."""
    if env.unwrapped is other.unwrapped:
        return True
    # SB3 puts a single environment into a vector of its own each time.
    mine, theirs = ({id(each.unwrapped) for each in _members(one)} for one in (env, other))
    return not mine.isdisjoint(theirs)


def _members(env: VecEnv) -> list[gym.Env[Any, Any]]:
    inner = env.unwrapped
    return inner.envs if isinstance(inner, DummyVecEnv) else []


def _check_normalised_alike(source: VecEnv, env: VecEnv) -> None:
    """Raise if only one of two environments normalises observations."""
    own, other = map(normalises_observations, map(unwrap_vec_normalize, (source, env)))
    if own and not other:
        raise ValueError(
            "`env` must be in a VecNormalize, as the model's own environment is, whose statistics "
            "it is given"
        )
    if other and not own:
        raise ValueError(
            "`env` must not be in a VecNormalize that normalises observations, since the model's "
            "own environment isn't"
        )
    normalisers = [each for each in map(unwrap_vec_normalize, (source, env)) if each is not None]
    if own:
        mine, theirs = map(kind_of_normaliser, normalisers)
        if mine != theirs:
            raise ValueError(
                f"`env` must be normalised as the model's own environment, {mine}, got {theirs}"
            )


def _normalise_as(source: VecEnv, env: VecEnv) -> tuple[VecNormalize, dict[str, Any]] | None:
    """Give an environment's normaliser the statistics of another's, of which it learns no more.

    :return: the normaliser, and what it held before; None if there is none
    """
    normaliser = unwrap_vec_normalize(env)
    if normaliser is None:
        return None
    names = ("training", "norm_reward", "obs_rms", "ret_rms")
    held = {name: vars(normaliser)[name] for name in names if name in vars(normaliser)}
    if unwrap_vec_normalize(source) is None:  # both of them leave observations alone
        normaliser.training = normaliser.norm_reward = False
    else:
        synchronise(source, env)
    return normaliser, held


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
    rule = "`env` must be given, and another than the model's own, which is training's: "
    spec = env.get_attr("spec")[0] if env.has_attr("spec") else None
    if spec is None or spec.id not in gym.registry:
        raise ValueError(f"{rule}it doesn't say how another one is built")
    others = tuple(each for each in spec.additional_wrappers if each.entry_point not in NOT_AGAIN)
    strange = [each.name for each in others if each.kwargs is None]
    if strange:
        raise ValueError(f"{rule}{strange[0]} around it doesn't say how another one is built")
    if why := not_wrapped_again_since(env):
        raise ValueError(f"{rule}{why}")
    spec = replace(spec, additional_wrappers=others)
    # A class of one's own need not take any.
    mode: dict[str, Any] = {}
    if render_mode is not None or "render_mode" in spec.kwargs:
        mode["render_mode"] = render_mode or mode_again(spec.kwargs.get("render_mode"))
    again: list[Callable[[], gym.Env[Any, Any]]] = [lambda: Monitor(gym.make(spec, **mode))]
    return wrap_like(DummyVecEnv(again), env)


def _mode(env: VecEnv) -> str | None:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env.render_mode


def drawn(env: VecEnv) -> list[Frame | None]:
    """Return a picture of every copy, None of one that draws none.

    :param env: whatever it raises is raised
    :raises ValueError: if what it drew is no picture
    """
    return [None if each is None else as_frame(each) for each in env.get_images()]


def why_not_drawn(error: Exception) -> str:
    """Say in one line why there are no pictures."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an error may have no words for itself
        text = ""
    return text or f"drawing raised {type(error).__name__}"


def _draws(model: BaseAlgorithm, env: VecEnv) -> bool:
    """Draw, before a step and after it: many an environment says only then that it can't."""
    env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of it
        if any(picture is not None for picture in drawn(env)):
            return True
        env.step(random_actions(env, masked=takes_masks(model, env)))
        return any(picture is not None for picture in drawn(env))


def _built(
    model: BaseAlgorithm, venv: VecEnv, build: Callable[..., VecEnv], frames: bool
) -> tuple[VecEnv, str | None]:
    """Build an environment like another, and say why it has no pictures if it has none."""
    if not frames:
        return build(), NOT_ASKED
    env = None
    try:
        env = build(render_mode=PICTURES)
        if env.observation_space != venv.observation_space:
            why = OBSERVES_OTHERWISE
        elif _draws(model, env):
            return env, None
        else:
            why = NO_MODE
    except Exception as error:  # what a task can't draw, or lacks for it, is its own to say
        why = why_not_drawn(error)
    if env is not None:
        with suppress(Exception):  # it may close no better than it draws
            env.close()
    return build(), why
