"""What one training run is, as plain values: a cell of a study's grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from sb3_moe.study.spec.algorithms import default_policy, is_off_policy, rollout_of
from sb3_moe.study.spec.arguments import arguments_of, described, given
from sb3_moe.study.spec.callbacks import check_callbacks
from sb3_moe.study.spec.named import Named, named
from sb3_moe.study.spec.schedules import check_turns, schedule_of, takes_all_tasks
from sb3_moe.study.spec.setup import (
    Annealing,
    Evaluation,
    Setup,
    check,
    check_name,
    one_of_both,
    plain,
    settle,
)
from sb3_moe.study.spec.start import StartFrom, read_start
from sb3_moe.study.spec.tasks import as_entries, digest, in_a_folders_name

__all__ = [
    "Annealing",
    "Architecture",
    "CellConfig",
    "Evaluation",
    "Regime",
    "check_name",
    "differences",
    "plain",
    "spelled",
    "with_what_is_said_since",
]

#: How tasks come: together, one after the other, each alone, or by a schedule.
Regime = Literal["mtrl", "crl", "scratch", "schedule"]

# Bytes that file systems take for the name of a folder.
LONGEST_FOLDER = 255

# What folders of version 0.1 don't say, and how it was: of a cell, and of its architecture.
_SAID_SINCE: dict[str, Any] = {
    "algorithm": "PPO",
    "preset": "minatar",
    "tasks": [],
    "env": {},
    "schedule": None,
    "normalize": None,
    "callbacks": [],
    "no_op_max": 0,
}
_SAID_OF_ARCHITECTURES: dict[str, Any] = {"callbacks": [], "start_from": None}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A column of the study: a policy and what it is built with.

    :param name: how folders and reports call it
    :param policy: an alias that the algorithm knows, or ``package.module:Class``; None, in a study,
        becomes ours for observations such as it has
    :param policy_kwargs: plain values laid over the preset's own ``policy_kwargs``
    :param arguments: of the algorithm, laid over the study's, such as a learning rate chosen for
        this network
    :param ppo: 0.1's word for those of PPO; in a study both hold the same
    :param callbacks: besides the study's, such as a remedy
    :param start_from: the trained model that it begins with; None: new weights
    :raises ValueError: if its name can't be part of a folder's
    """

    name: str
    policy: str | None = None
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    ppo: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[Named, ...] = ()
    start_from: StartFrom | None = None

    def __post_init__(self) -> None:
        check_name("an architecture", self.name)

    def fitted(self, setup: Setup) -> Architecture:
        """Give this architecture as a study has it.

        :raises ValueError: if the algorithm doesn't take a value, or a callback is not there
        """
        where = f"architectures.{self.name}."
        own = one_of_both(setup.algorithm, self.arguments, self.ppo, where)
        check_callbacks(self.callbacks, f"{where}callbacks")
        return replace(
            self,
            policy=self.policy or default_policy(setup.algorithm, setup.task_id),
            arguments=own,
            ppo=own if setup.algorithm == "PPO" else {},
        )


@dataclass(frozen=True, kw_only=True)
class CellConfig(Setup):
    """One training run.

    :param regime: ``"mtrl"`` interleaves the tasks by steps, ``"crl"`` plays them one after the
        other, ``"scratch"`` trains on one task only, in the spaces of all of them, ``"schedule"``
        plays what ``schedule`` says
    :param order: what ``"crl"`` plays, one after the other; ``"scratch"`` plays one task
    :param architecture: which network
    :param seed: of the model, the environments and the schedule
    :raises ValueError: if a value is out of its range
    """

    regime: Regime
    order: tuple[str, ...] = ()
    architecture: Architecture
    seed: int = 0

    def __post_init__(self) -> None:
        check(
            self.regime in get_args(Regime),
            f"`regime` must be one of {', '.join(get_args(Regime))}, got {self.regime!r}",
        )
        super().__post_init__()
        settle(self, architecture=self.architecture.fitted(self))
        self._check_order()
        check(self.seed >= 0, f"`seed` must be at least 0, got {self.seed}")
        check(
            (self.regime == "schedule") == (self.schedule is not None),
            '`schedule` must be given for the regime "schedule" and no other, got '
            f'{self.schedule} for "{self.regime}"',
        )
        check(
            self.n_envs >= len(self.games) or not takes_all_tasks(schedule_of(self)),
            f"`n_envs` must be at least the number of games, {len(self.games)}, got {self.n_envs}",
        )
        unit = "train_freq" if is_off_policy(self.algorithm) else "n_steps"
        check(
            self.steps_per_task % self.rollout == 0,
            f"`steps_per_task` must be a multiple of the rollout of {self.architecture.name!r}, "
            f"n_envs * {unit} = {self.rollout}, got {self.steps_per_task}",
        )
        check_turns(self)

    def _check_order(self) -> None:
        """Raise unless the order is one of the games, where the regime has one."""
        games = {"mtrl": 0, "schedule": 0, "scratch": 1}.get(self.regime)
        check(
            len(self.order) > 0 if games is None else len(self.order) == games,
            '`order` must be empty for "mtrl" and "schedule", one game for "scratch", and at least '
            f'one for "crl", got {list(self.order)} for "{self.regime}"',
        )
        for game in self.order:
            check(
                game in self.games,
                f"`order` must be among the games {', '.join(self.games)}, got {game!r}",
            )

    @property
    def rollout(self) -> int:
        """Environment steps between two updates."""
        return rollout_of(self.algorithm, given(self), self.n_envs)

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run."""
        blocks = len(self.order or self.games)
        return self.steps_per_task * blocks * self.cycles

    @property
    def name(self) -> str:
        """The name of its folder: what tells it from the study's other cells."""
        return self._named(self.regime, self.order, self.architecture.name)

    @property
    def start(self) -> str | None:
        """The name of the cell that this one begins with, if it begins with one."""
        start = self.architecture.start_from
        if start is None or start.architecture is None:
            return None
        order = self.order if start.order is None else start.order
        return self._named(start.regime or self.regime, order, start.architecture)

    def _named(self, regime: str, order: tuple[str, ...], architecture: str) -> str:
        played = order or self.games
        parts = [regime, in_a_folders_name(played, self.tasks), architecture, f"s{self.seed}"]
        if len("-".join(parts).encode()) > LONGEST_FOLDER:
            # Orders may be of any length.
            parts[1] = f"{len(played)}.{digest(played)}"
        return "-".join(parts)

    @property
    def resolved(self) -> dict[str, Any]:
        """The algorithm's arguments that aren't SB3's own, as plain values."""
        values: dict[str, Any] = described(arguments_of(self))
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``config.json`` holds them."""
        values = {name: plain(value) for name, value in asdict(self).items()}
        values["architecture"] = spelled(values["architecture"], self.algorithm)
        return spelled(values, self.algorithm)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CellConfig:
        """Read what :meth:`to_dict` wrote, in 0.1 too."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"a cell has {sorted(known)}, got {unknown[0]!r}")
        architecture = dict(values["architecture"])
        architecture["callbacks"] = _all_named(architecture.get("callbacks", ()))
        if architecture.get("start_from") is not None:
            architecture["start_from"] = read_start(architecture["start_from"], "start_from")
        nested: dict[str, Any] = {
            "games": tuple(values["games"]),
            "tasks": as_entries(values.get("tasks", ())),
            "order": tuple(values.get("order", ())),
            "architecture": Architecture(**architecture),
            "evaluation": Evaluation(**values.get("evaluation", {})),
            "callbacks": _all_named(values.get("callbacks", ())),
        }
        for name in ("schedule", "normalize"):
            value = values.get(name)
            nested[name] = None if value is None else named(value, name)
        return cls(**{**values, **nested})


def _all_named(values: Any) -> tuple[Named, ...]:
    return tuple(named(value, "callbacks") for value in values)


def with_what_is_said_since(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Complete what version 0.1 wrote of a cell.

    Values alone: what a folder's file names, which may be anyone's, is not imported.
    """
    architecture = cell.get("architecture")
    own = {}
    if isinstance(architecture, Mapping):
        own["architecture"] = {**_SAID_OF_ARCHITECTURES, **architecture}
    return {**_SAID_SINCE, **cell, **own}


def spelled(values: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """Leave out one of ``ppo`` and ``arguments``, which hold the same: files have it once."""
    other = "arguments" if algorithm == "PPO" else "ppo"
    return {name: value for name, value in values.items() if name != other}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say, a line each, what differs between two nested dicts of plain values."""
    lines = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines
