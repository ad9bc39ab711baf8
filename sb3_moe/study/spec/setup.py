"""What all cells of a study have in common: tasks, algorithm, and how they are trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal, get_args

from stable_baselines3.common.vec_env import VecNormalize

from sb3_moe.study.spec.algorithms import algorithm_class, check_algorithm_arguments
from sb3_moe.study.spec.arguments import NORMALISERS, preset_for
from sb3_moe.study.spec.callbacks import check_callbacks
from sb3_moe.study.spec.games import check_games
from sb3_moe.study.spec.named import Named
from sb3_moe.study.spec.schedules import check_schedule
from sb3_moe.study.spec.tasks import Entries, as_entries, check_env, task_names

#: Over what the learning rate falls to zero: over nothing, the run, or each task's block.
Annealing = Literal["none", "run", "block"]

#: Entries that say, besides the names of the tasks, what the environment is built with.
WORLD = ("tasks", "env", "no_op_max")

# Bytes of a name that leave other parts of a folder's name their share.
LONGEST_NAME = 200


def check(rule: bool, text: str) -> None:
    """Raise unless a rule holds.

    :raises ValueError: with the text
    """
    if not rule:
        raise ValueError(text)


def check_name(of: str, name: str) -> None:
    """Raise unless a name can be a folder's, and part of one.

    :param of: what has it
    :raises ValueError: naming the rule and the name
    """
    check(
        re.fullmatch(r"[^\s/\\.][^\s/\\]*", name) is not None
        and name.isprintable()
        and len(name.encode()) <= LONGEST_NAME,
        f"`name` of {of} must be a word of printable characters, without / or spaces, that doesn't "
        f"begin with a dot, of {LONGEST_NAME} bytes at most, got {name!r}",
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How often the agent is looked at, and how closely.

    :param points: evaluations per task and visit, evenly spread, besides the one before training
    :param episodes: episodes of every task at each of them
    :param deterministic: whether the policy takes its most likely action
    :raises ValueError: if there would be none
    """

    points: int = 10
    episodes: int = 20
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("points", "episodes"):
            value = getattr(self, name)
            check(value >= 1, f"`evaluation.{name}` must be at least 1, got {value}")


def steps_between(steps_per_task: int, points: int) -> int:
    """Give the steps from one evaluation to the next, before they wait for a rollout's end."""
    return max(1, steps_per_task // points)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the cells of a study share.

    :param games: the names of the tasks, by their index: MinAtar's short names or registered ids,
        or, where there are ``tasks``, what those are called
    :param tasks: a suite's name, or Gymnasium ids, ids with arguments and
        ``package.module:callable``
    :param env: arguments of :func:`sb3_moe.make_multitask_vec_env`: ``task_id``, ``obs_space``,
        ``action_space``, ``invalid_action``, ``vectorization``
    :param algorithm: one that there are policies for
    :param arguments: of the algorithm, laid over the preset's
    :param ppo: 0.1's word for those of PPO; both hold the same
    :param preset: ``"minatar"`` (:data:`sb3_moe.presets.MINATAR_PPO`; PPO's where none is named) or
        ``"none"`` (SB3's own values; the other algorithms')
    :param schedule: ``Interleave``, ``Cycle``, ``Sequence``, ``Adaptive``, ``LearningProgress`` or
        a class of schedules, for the regime ``"schedule"``
    :param normalize: ``VecNormalize``, ``PerTaskVecNormalize``, or a class of them
    :param callbacks: in every run, besides those that a study always has
    :param steps_per_task: environment steps that each task gets on each visit, over all copies;
        the mean over the tasks where they are interleaved and have unequal shares of the copies
    :param cycles: how often the tasks are played through
    :param n_envs: copies of the environment that step together
    :param annealing: the learning rate falls linearly to zero over nothing, the run, or each block
    :param evaluation: how the agent is evaluated while it trains
    :param checkpoints: how many snapshots a run can go on from, evenly spread
    :param device: of torch
    :param no_op_max: most no-ops at the start of an episode, of MinAtar's ``games`` by their short
        names; with 0, as in version 0.1, all episodes of SpaceInvaders begin alike
    :raises ValueError: if a value is out of its range
    """

    games: tuple[str, ...]
    tasks: Entries = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str = "PPO"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    ppo: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    schedule: Named | None = None
    normalize: Named | None = None
    callbacks: tuple[Named, ...] = ()
    steps_per_task: int = 262_144
    cycles: int = 1
    n_envs: int = 64
    annealing: Annealing = "none"
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoints: int = 4
    device: str = "cpu"
    no_op_max: int = 0

    def __post_init__(self) -> None:
        check(
            self.annealing in get_args(Annealing),
            f"`annealing` must be one of {', '.join(get_args(Annealing))}, got {self.annealing!r}",
        )
        algorithm_class(self.algorithm)
        self._check_tasks()
        check_device(self.device)
        own = one_of_both(self.algorithm, self.arguments, self.ppo)
        settle(self, arguments=own, ppo=own if self.algorithm == "PPO" else {})
        settle(self, preset=preset_for(self.algorithm, self.preset))
        if self.normalize is not None:
            self.normalize.check(VecNormalize, NORMALISERS, "normalize", ("venv",))
        if self.schedule is not None:
            check_schedule(self.schedule)
        check_callbacks(self.callbacks, "callbacks")
        for name in ("steps_per_task", "cycles", "n_envs", "checkpoints"):
            value = getattr(self, name)
            check(value >= 1, f"`{name}` must be at least 1, got {value}")
        check(self.no_op_max >= 0, f"`no_op_max` must be at least 0, got {self.no_op_max}")
        check(
            not (self.no_op_max and self.tasks),
            "`no_op_max` must be left out where there are `tasks`, whose arguments are beside "
            f"their ids, got {self.no_op_max}",
        )

    def _check_tasks(self) -> None:
        check_env(self.env)
        if not self.tasks:
            check_games(self.games)
            return
        settle(self, tasks=as_entries(self.tasks))
        names = task_names(self.tasks)
        check(
            self.games == names,
            f"`games` must be left out where there are `tasks`, or name them, {list(names)}, got "
            f"{list(self.games)}",
        )

    @property
    def task_id(self) -> str:
        """How observations show which task is on."""
        return str(self.env.get("task_id", "dict"))

    @property
    def world(self) -> dict[str, Any]:
        """What the environment is built with, besides the names of its tasks, if there is more."""
        return {name: value for name in WORLD if (value := getattr(self, name))}


def settle(of: Any, **values: Any) -> None:
    """Set attributes of a frozen configuration while it is made."""
    for name, value in values.items():
        object.__setattr__(of, name, value)


def one_of_both(
    algorithm: str, arguments: Mapping[str, Any], ppo: Mapping[str, Any], where: str = ""
) -> dict[str, Any]:
    """Give an algorithm's arguments, which a file of 0.1 has under ``ppo``.

    :param where: the entry that holds both, with a dot after it
    :raises ValueError: if the algorithm doesn't take them, or they contradict each other
    """
    for name, values in (("ppo", ppo), ("arguments", arguments)):
        check_algorithm_arguments(algorithm if name == "arguments" else "PPO", values, where + name)
    check(
        not ppo or algorithm == "PPO",
        f"`{where}ppo` must be left out with {algorithm}, whose values are `{where}arguments`, "
        f"got {ppo!r}",
    )
    twice = [name for name in ppo if name in arguments and arguments[name] != ppo[name]]
    check(not twice, f"`{where}arguments` and `{where}ppo` both have {', '.join(twice)}")
    return {**ppo, **arguments}


def check_device(device: str, *, here: bool = False) -> None:
    """Raise unless torch has a device.

    :param here: whether this machine must have it, and not only the one that trains
    :raises ValueError: naming it
    """
    import torch as th

    try:
        th.empty(0, device=device) if here else th.device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`device` must be a device that torch has, got {device!r}: {reason}"
        ) from error


def plain(value: Any) -> Any:
    """Give lists for tuples and dicts for mappings and configs: what JSON gives back."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
