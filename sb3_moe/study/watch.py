"""``sb3-moe watch``: a page on which an agent of a file plays."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import tyro
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import sb3_moe
from sb3_moe.extras import require
from sb3_moe.policies.registration import TABLE
from sb3_moe.saving.normalizer import NormalizerLeftOutWarning
from sb3_moe.saving.reading import MAX_BYTES
from sb3_moe.study.run.folder import check_writable
from sb3_moe.study.spec.games import game_id, games_as_tasks
from sb3_moe.study.spec.named import imported
from sb3_moe.tasks.known import names_on
from sb3_moe.watching.importance import check_importance, expert_importance
from sb3_moe.watching.record import expert_named
from sb3_moe.watching.replay import steps_of

SHOWN = ("dict", "onehot", "channels", "info")


class Agent(Protocol):
    """What a command is told of the agent that it opens."""

    @property
    def model(self) -> Path:
        """The file."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """A suite's name, or ids."""

    @property
    def trust(self) -> bool:
        """Whether a file that can run code may be opened."""

    @property
    def algorithm(self) -> str:
        """Of SB3's zip."""

    @property
    def custom(self) -> tuple[str, ...]:
        """The user's own classes that the file names."""

    @property
    def max_bytes(self) -> int:
        """Most memory that the file may ask for."""


@dataclass(frozen=True)
class Watch:
    """Play every task and write a page with pictures, gates, values and rewards."""

    model: tyro.conf.Positional[Path]
    """A file of sb3_moe.save (.moe), or SB3's zip with --trust."""
    tasks: tuple[str, ...] = ()
    """Needed: a suite's name, or Gymnasium ids, which the agent was trained on, in any order."""
    episodes: int = 1
    """Of each task."""
    without: tuple[str, ...] = ()
    """Experts to play without, side by side, such as pi:2."""
    table: int = 0
    """Episodes of each task for a table of returns with each expert off; 0 for none."""
    max_steps: int = 1000
    """Of each task."""
    seed: int = 0
    """Of the environments and the actions."""
    stochastic: bool = False
    """Draw actions instead of taking the most likely ones."""
    out: Path = Path("replay.html")
    """The page, or a film where it ends in .gif or .mp4."""
    trust: bool = False
    """Open SB3's zip, which can run code: only your own."""
    algorithm: str = "PPO"
    """Of SB3's zip, which doesn't say."""
    custom: tuple[str, ...] = ()
    """Your own classes that a .moe names, such as nearest:Nearest; imported from the path."""
    max_bytes: int = MAX_BYTES
    """Most memory that a .moe may ask for, its buffer's above all."""


def main(arguments: Sequence[str] | None = None, prog: str = "sb3-moe watch") -> int:
    """Run the command; give its exit status.

    :param arguments: without the program's name; None for this process's
    :param prog: how the help calls the program
    """
    options = tyro.cli(Watch, prog=prog, args=arguments)
    try:
        return _watch(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, RuntimeError, OSError, ImportError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _watch(options: Watch) -> int:
    if options.out.suffix not in (".html", ".gif", ".mp4") or options.out.is_dir():
        raise ValueError(
            f"`--out` must be a file that ends in .html, .gif or .mp4, got {options.out}"
        )
    if options.out.suffix != ".html":
        _check_film(options)
    for each in options.without:
        expert_named(each)
    # What is wrong shows before anything is played.
    check_writable(options.out.parent)
    model = opened(options)
    if options.table:
        check_importance(model, None, options.table)
    replay = sb3_moe.watch(
        model,
        episodes=options.episodes,
        without=options.without,
        max_steps=options.max_steps,
        seed=options.seed,
        deterministic=not options.stochastic,
    )
    if options.table:
        replay.importance = expert_importance(
            model,
            episodes=options.table,
            seed=options.seed,
            deterministic=not options.stochastic,
        )
    is_page = options.out.suffix == ".html"
    written = replay.save(options.out) if is_page else replay.to_video(options.out)
    print(f"{steps_of(replay.runs):,} steps in {written}")
    return 0


def _check_film(options: Watch) -> None:
    """Raise if a film can't be written, or wouldn't show what is asked for.

    :raises ValueError: naming the option
    :raises ImportError: naming the extra
    """
    for name, given in (("--without", options.without), ("--table", options.table)):
        if given:
            raise ValueError(
                f"`{name}` must be left out where `--out` is a film, which shows the agent as it "
                f"is: got {given} and {options.out.name}"
            )
    require("films", "PIL")
    if options.out.suffix == ".mp4":
        require("an MP4", "imageio_ffmpeg")


def opened(options: Agent) -> BaseAlgorithm:
    """Open the model twice: its spaces say how the tasks are shown to it.

    :param options: of the command line
    :raises ValueError: if no task is named, or they aren't the model's
    """
    if not options.tasks:
        raise ValueError("`--tasks` must name a suite or Gymnasium ids, got none")
    load = _loader(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NormalizerLeftOutWarning)
        spaces_of: BaseAlgorithm = load(None)
    env = env_for(options.tasks, spaces_of.observation_space)
    return load(env)


def _loader(options: Agent) -> Any:
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


def _load_safely(options: Agent, env: Any, own: Mapping[str, Any]) -> BaseAlgorithm:
    try:
        return sb3_moe.load(
            options.model, env, device="cpu", custom_objects=own, max_bytes=options.max_bytes
        )
    except sb3_moe.UnsafeFileError as error:
        here = {"custom_objects=": "--custom package.module:Class", "max_bytes=": "--max-bytes"}
        for argument, option in here.items():
            if argument in str(error):
                raise ValueError(f"{error}: here by {option}") from error
        raise


def env_for(tasks: Sequence[str], space: spaces.Space[Any]) -> VecEnv | gym.Env[Any, Any]:
    """Build the environment that shows tasks as a model saw them, in the order that it knows.

    :param tasks: a suite's name, or ids
    :param space: the model's observations
    :raises ValueError: if nothing fits
    """
    from sb3_moe_envs import SUITES

    named = _in_order(tasks[0] if len(tasks) == 1 and tasks[0] in SUITES else list(tasks), space)
    if len(tasks) == 1 and tasks[0] not in SUITES:
        env = gym.make(game_id(tasks[0]))
        if env.observation_space == space:
            return env
    for shown in SHOWN:
        try:
            venv = sb3_moe.make_multitask_vec_env(named, task_id=shown)
        except ValueError:
            continue  # not every world can be shown in every way
        if _fits(venv.observation_space, space):
            return venv
        venv.close()
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
    if known is not None and sorted(map(game_id, tasks)) == sorted(map(game_id, known)):
        return games_as_tasks(known)  # as a study names them
    found = {each.name: each for each in tasks_of(tasks)}
    if known is None or [*found] == known or len(known) == len(found) == 1:
        return tasks
    if sorted(found) != sorted(known):
        raise ValueError(
            f"`--tasks` must be those that the model was trained on, {known}, got {[*found]}"
        )
    return [found[name] for name in known]


def _fits(ours: spaces.Space[Any], models: spaces.Space[Any]) -> bool:
    """Say whether a model's observations are ours, whatever SB3 or a normaliser made of them."""
    if isinstance(ours, spaces.Dict) and isinstance(models, spaces.Dict):
        return ours.keys() == models.keys() and all(_fits(ours[k], models[k]) for k in ours)
    if isinstance(ours, spaces.Box) and isinstance(models, spaces.Box):
        return sorted(ours.shape) == sorted(models.shape)
    return ours == models
