"""The agent of a file, opened with the environment that shows its tasks as it saw them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
import tyro
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import sb3_moe
from sb3_moe.policies.registration import TABLE
from sb3_moe.saving.model_file import MAX_BYTES
from sb3_moe.saving.normalizer import NormalizerLeftOutWarning
from sb3_moe.study.spec.games import game_id, games_as_tasks
from sb3_moe.study.spec.named import imported
from sb3_moe.study.spec.tasks import entry_of
from sb3_moe.study.typed_tasks import typed_task
from sb3_moe.vec_env.tasks import names_on

SHOWN = ("dict", "onehot", "channels", "info")


@dataclass(frozen=True)
class AgentOptions:
    """The agent, and what opening it takes."""

    model: tyro.conf.Positional[Path]
    """A file of sb3_moe.save (.moe), or SB3's zip with --trust."""
    tasks: tuple[str, ...] = ()
    """Needed: a suite's name, or Gymnasium ids or a study's names, as the agent was trained on; an
    id's arguments stand behind it, as in 'CartPole-v1(max_episode_steps=50)'; what builds your own
    is package.module:callable, imported from the path."""
    trust: bool = False
    """Open SB3's zip, which can run code: only your own."""
    algorithm: str = "PPO"
    """Of SB3's zip, which doesn't say."""
    custom: tuple[str, ...] = ()
    """Your own classes that a .moe names, such as nearest:Nearest; imported from the path."""
    max_bytes: int = MAX_BYTES
    """Most memory that a .moe may ask for, its buffer's above all."""


def opened(options: AgentOptions) -> BaseAlgorithm:
    """Open the model twice: its spaces say how the tasks are shown to it.

    :param options: of the command line
    :raises ValueError: if no task is named, or they aren't the model's
    """
    if not options.tasks:
        raise ValueError("`--tasks` must name a suite or Gymnasium ids, got none")
    load = _loader(options)
    # A single observation is no work for two, who wait for each other on a busy machine.
    th.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NormalizerLeftOutWarning)
        spaces_of: BaseAlgorithm = load(None)
    env = env_for(options.tasks, spaces_of.observation_space)
    return load(env)


def _loader(options: AgentOptions) -> Any:
    if options.model.suffix != ".zip":
        own = {each.partition(":")[2]: imported(each, "--custom") for each in options.custom}
        return lambda env: _load_safely(options, env, own)
    if not options.trust:
        raise ValueError(
            f"{options.model.name} is SB3's file, which can run code when it is opened: say "
            "--trust if it is your own"
        )
    if options.algorithm not in TABLE:
        raise ValueError(f"`--algorithm` must be among {sorted(TABLE)}, got {options.algorithm!r}")
    module, _, name = TABLE[options.algorithm].algorithm.partition(":")
    algorithm = getattr(import_module(module), name)

    def load(env: Any) -> BaseAlgorithm:
        try:
            model: BaseAlgorithm = algorithm.load(options.model, env, device="cpu")
        except (ValueError, OSError):  # SB3's own words
            raise
        except Exception as error:  # where another algorithm's parts are taken, it can be anything
            raise ValueError(
                f"{options.model.name} can't be opened as a model of {name} "
                f"({type(error).__name__}: {error}); `--algorithm` must be the one that it is of"
            ) from error
        return model

    return load


def _load_safely(options: AgentOptions, env: Any, own: Mapping[str, Any]) -> BaseAlgorithm:
    try:
        return sb3_moe.load(
            options.model,
            env,
            device="cpu",
            custom_objects=own,
            max_bytes=options.max_bytes,
            replay_buffer=False,  # of as many environments as it was trained in
        )
    except sb3_moe.UnsafeFileError as error:
        here = {"custom_objects=": "--custom package.module:Class", "max_bytes=": "--max-bytes"}
        for argument, option in here.items():
            if argument in str(error):
                raise ValueError(f"{error}: here by {option}") from error
        raise


def env_for(tasks: Sequence[str], space: spaces.Space[Any]) -> VecEnv | gym.Env[Any, Any]:
    """Build the environment that shows tasks as a model saw them, in the order that it knows.

    :param tasks: a suite's name, or ids, with or without arguments, or ``module:callable``
    :param space: the model's observations
    :raises ValueError: if nothing fits, or can be built
    """
    from sb3_moe_envs import SUITES

    named = _in_order(tasks[0] if len(tasks) == 1 and tasks[0] in SUITES else list(tasks), space)
    if len(tasks) == 1 and tasks[0] not in SUITES:
        found = _typed(tasks[0])
        # What one's own callable builds can be built again, for a replay, in a world alone.
        if not callable(found):
            env_id, arguments = found
            env = gym.make(game_id(env_id), **arguments)
            if env.observation_space == space:
                return env
            env.close()
    problems = []
    for shown in SHOWN:
        try:
            venv = sb3_moe.make_multitask_vec_env(named, task_id=shown)
        except ValueError as problem:
            problems.append(problem)  # not every world can be shown in every way
            continue
        if _fits(venv.observation_space, space):
            return venv
        venv.close()
    if len(problems) == len(SHOWN):
        raise problems[-1]  # of the way that adds nothing: the world itself can't be built
    raise ValueError(
        f"`--tasks` must be those that the model was trained on: no way to show {list(tasks)} "
        f"gives its observations, {space}"
    )


def _in_order(tasks: str | list[str], space: spaces.Space[Any]) -> Any:
    """Put tasks into the order in which a model knows them, if its observations say it.

    :raises ValueError: if they are others
    """
    from sb3_moe_envs.suites import tasks_of

    known = names_on(space)
    if known is not None and _are_games(tasks, known):
        return games_as_tasks(known)
    named = tasks if isinstance(tasks, str) else [_typed(each) for each in tasks]
    found = {each.name: each for each in tasks_of(named)}
    if known is None or [*found] == known or len(known) == len(found) == 1:
        return named
    if sorted(found) != sorted(known):
        raise ValueError(
            f"`--tasks` must be those that the model was trained on, {known}, got {[*found]}; an "
            "id's arguments stand behind it, as in 'CartPole-v1(max_episode_steps=50)'"
        )
    return [found[name] for name in known]


def _typed(word: str) -> Any:
    """Give an id with its arguments, or what ``module:callable`` stands for."""
    env_id, arguments = typed_task(word)
    if ":" in env_id:
        found = entry_of((env_id, arguments) if arguments else env_id, "--tasks")
        if callable(found):
            return found
    return env_id, arguments


def _are_games(tasks: Sequence[str], known: Sequence[str]) -> bool:
    """Say whether tasks are a model's, as a study names its games: by short names or full ids."""
    ids = sorted(map(game_id, known))
    return sorted(map(game_id, tasks)) == ids and all(each in gym.registry for each in ids)


def _fits(ours: spaces.Space[Any], models: spaces.Space[Any]) -> bool:
    """Say whether a model's observations are ours, whatever SB3 or a normaliser made of them."""
    if isinstance(ours, spaces.Dict) and isinstance(models, spaces.Dict):
        return ours.keys() == models.keys() and all(_fits(ours[k], models[k]) for k in ours)
    if isinstance(ours, spaces.Box) and isinstance(models, spaces.Box):
        return sorted(ours.shape) == sorted(models.shape)
    return ours == models
