"""What one training run is, as plain values: a cell of a study's grid.

Each entry is declared once: its type, range and default in the class, its meaning in the class's
docstring. The JSON schema and the docs' table are made from both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch as th
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.dataclasses import dataclass

from sb3_moe.study.spec.algorithms import (
    PRESETS,
    algorithm_class,
    arguments_of,
    declared,
    default_policy,
    described,
    rollout_of,
)
from sb3_moe.study.spec.components import (
    build_schedule,
    check_callbacks,
    check_turns,
    normalizer_class,
)
from sb3_moe.study.spec.named import STRICT, NamedEntry, arguments_for
from sb3_moe.study.spec.tasks import Entries, check_env, read_tasks

#: How tasks come: together, one after the other, each alone, or by a schedule.
Regime = Literal["mtrl", "crl", "scratch", "schedule"]
Count = Annotated[int, Field(ge=1)]

#: Entries that say, besides the names of the tasks, what the environment is built with.
WORLD = ("tasks", "env", "no_op_max")
#: Files of models, by how their names end.
MODELS = (".moe", ".zip")
# Bytes that file systems take for the name of a folder, and that leave its other parts a share.
LONGEST_FOLDER, LONGEST_NAME = 255, 200


def check(rule: bool, text: str) -> None:
    """Raise unless a rule holds.

    :raises ValueError: with the text
    """
    if not rule:
        raise ValueError(text)


def check_device(device: str, *, here: bool = False) -> None:
    """Raise unless torch has a device.

    :param here: whether this machine must have it, and not only the one that trains
    :raises ValueError: naming it
    """
    try:
        th.empty(0, device=device) if here else th.device(device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"`device` must be one that torch has, got {device!r}: {why}") from error


def settle(of: Any, **values: Any) -> None:
    """Set attributes of a frozen configuration while it is made."""
    for name, value in values.items():
        object.__setattr__(of, name, value)


def plain(value: Any) -> Any:
    """Give lists for tuples and dicts for mappings and configurations: what JSON gives back."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def _a_folders_name(name: str) -> str:
    check(
        re.fullmatch(r"[^\s/\\.][^\s/\\]*", name) is not None
        and name.isprintable()
        and len(name.encode()) <= LONGEST_NAME,
        "`name` must be a word of printable characters, without / or spaces, that doesn't begin "
        f"with a dot, of {LONGEST_NAME} bytes at most, got {name!r}",
    )
    return name


Name = Annotated[str, AfterValidator(_a_folders_name)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """How often the agent is evaluated while it trains, and how closely.

    :param points: evaluations per task and visit, evenly spread, besides the one before training
    :param episodes: episodes of every task at each of them
    :param deterministic: whether the policy takes its most likely action
    """

    points: Count = 10
    episodes: Count = 20
    deterministic: bool = False


def steps_between(steps_per_task: int, points: int) -> int:
    """Give the steps from one evaluation to the next, before they wait for a rollout's end."""
    return max(1, steps_per_task // points)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StartFrom:
    """Whose weights a network begins with: a file's, or those of another network of the study.

    :param model: path of a model beside the study's file, ``.moe`` or, only from those you trust,
        SB3's ``.zip``
    :param architecture: a network of the study, whose model of the same seed it is
    :param regime: of that network's run; None: as of the run that begins
    :param order: likewise
    :param how: as in :func:`sb3_moe.upcycle`, which a dense model goes through where the network
        has experts
    """

    model: Annotated[str, Field(pattern=r"\.(moe|zip)$")] | None = None
    architecture: str | None = None
    regime: Regime | None = None
    order: tuple[str, ...] | None = None
    how: str = "copy"

    def __post_init__(self) -> None:
        check(
            (self.model is None) != (self.architecture is None),
            "`start_from` must have one of `model` and `architecture`, got "
            f"{self.model!r} and {self.architecture!r}",
        )

    def __str__(self) -> str:
        """Say it as a reader would."""
        if self.model is not None:
            return f"the model {Path(self.model).name}"
        order = f" after {', then '.join(self.order)}" if self.order else ""
        return f"the trained {self.architecture}{order}"


def _start(value: Any, info: ValidationInfo) -> Any:
    """Read a file's name or a network's; a path is taken from the folder of the study's file."""
    if isinstance(value, str):
        value = {"model" if value.endswith(MODELS) else "architecture": value}
    if info.context and isinstance(value, Mapping) and value.get("model"):
        # Absolute: a study may be run from another folder the next time.
        return {**value, "model": str((info.context / str(value["model"])).absolute())}
    return value


#: An entry that says whose weights a network begins with.
Start = Annotated[
    StartFrom, BeforeValidator(_start), WithJsonSchema({"type": ["string", "object"]})
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Architecture:
    """A network of the study: a policy, and what it is built with.

    :param name: how folders and reports call it
    :param policy: an alias that the algorithm knows, or ``package.module:Class``; None: ours for
        observations such as the study has
    :param policy_kwargs: plain values laid over the preset's own ``policy_kwargs``
    :param arguments: of the algorithm, laid over the study's, such as a learning rate chosen for
        this network
    :param callbacks: besides the study's, such as a plasticity intervention
    :param start_from: the trained model that it begins with; None: new weights
    """

    name: Name
    policy: str | None = None
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[NamedEntry, ...] = ()
    start_from: Start | None = None

    def fitted(self, setup: Setup) -> Architecture:
        """Give this architecture as a study has it.

        :raises ValueError: if the algorithm doesn't take a value, or a callback is not there
        """
        where = f"architectures.{self.name}."
        declared(setup.algorithm, self.arguments, f"{where}arguments")
        check_callbacks(self.callbacks, f"{where}callbacks")
        return replace(self, policy=self.policy or default_policy(setup.algorithm, setup.task_id))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Setup:
    """What the runs of a study share.

    :param games: MinAtar's short names or Gymnasium ids; or give ``tasks``
    :param tasks: a suite's name (its tasks, not its schedule), or a list of ids,
        ``[id, {arguments}]`` and ``package.module:callable``
    :param env: arguments of ``make_multitask_vec_env``: ``task_id``, ``obs_space``,
        ``action_space``, ``invalid_action``, ``vectorization``
    :param no_op_max: most no-ops at the start of an episode of MinAtar's ``games``; 30 is what the
        suites have
    :param algorithm: any of [the table](algorithms.md)
    :param arguments: of the algorithm, over the preset's (``train_freq`` in steps)
    :param preset: ``minatar`` is ``sb3_moe.presets.MINATAR_PPO``, the default for PPO; ``none`` are
        SB3's own values, the default for the others
    :param schedule: ``{Adaptive: {rule: "return>=200"}}`` or any [schedule](tasks.md), for the
        regime ``schedule``, which is then the default
    :param normalize: ``VecNormalize``, ``PerTaskVecNormalize`` or ``package.module:Class``, with
        arguments
    :param callbacks: in every run, besides a study's own: names from [callbacks](callbacks.md) or
        ``package.module:Class``, with arguments; evaluation and snapshots have entries of their own
    :param steps_per_task: steps of each task and visit, over all parallel environments; a multiple
        of the rollout
    :param cycles: how often the tasks are played through
    :param n_envs: parallel environments
    :param annealing: the learning rate falls to zero over the ``run`` or over each task's ``block``
    :param evaluation: evaluations per task and visit (``points``), ``episodes`` of every task at
        each, and whether actions are the most likely ones (``deterministic``)
    :param checkpoints: snapshots from which a run can go on, evenly spread
    :param device: of torch
    """

    games: tuple[str, ...] = ()
    tasks: Entries = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    no_op_max: Annotated[int, Field(ge=0)] = 0
    algorithm: str = "PPO"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preset: Literal["minatar", "none"] | None = None
    schedule: NamedEntry | None = None
    normalize: NamedEntry | None = None
    callbacks: tuple[NamedEntry, ...] = ()
    steps_per_task: Count = 262_144
    cycles: Count = 1
    n_envs: Count = 64
    annealing: Literal["none", "run", "block"] = "none"
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoints: Count = 4
    device: str = "cpu"

    def __post_init__(self) -> None:
        algorithm_class(self.algorithm)
        check_env(self.env)
        names = tuple(task.name for task in read_tasks(self.games, self.tasks))
        check(
            bool(names) and self.games in ((), names) and len({*names}) == len(names),
            "`games` must be different from each other, at least one, and left out where there are "
            f"`tasks`, got {list(self.games)}",
        )
        check(
            not (self.tasks and self.no_op_max),
            "`no_op_max` must be left out where there are `tasks`, whose arguments are beside "
            f"their ids, got {self.no_op_max}",
        )
        settle(self, games=names)
        check_device(self.device)
        usual = "minatar" if self.algorithm == "PPO" else "none"
        settle(self, preset=self.preset or usual)
        preset = {k: v for k, v in PRESETS[str(self.preset)].items() if k != "policy_kwargs"}
        declared(self.algorithm, preset, f"preset.{self.preset}")
        declared(self.algorithm, self.arguments)
        if self.normalize is not None:
            kind, where = normalizer_class(self.normalize), f"normalize.{self.normalize.name}"
            arguments_for(kind, self.normalize.arguments, where, ("venv",))
        if self.schedule is not None:
            build_schedule(self.schedule)
        check_callbacks(self.callbacks, "callbacks")

    @property
    def task_id(self) -> str:
        """How observations show which task is on."""
        return str(self.env.get("task_id", "dict"))

    @property
    def world(self) -> dict[str, Any]:
        """What the environment is built with, besides the names of its tasks, if there is more."""
        return {name: value for name in WORLD if (value := getattr(self, name))}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CellConfig(Setup):
    """One training run.

    :param regime: ``"mtrl"`` interleaves the tasks by steps, ``"crl"`` plays them one after the
        other, ``"scratch"`` trains on one task only, in the spaces of all of them, ``"schedule"``
        plays what ``schedule`` says
    :param order: what ``"crl"`` plays, one after the other; ``"scratch"`` plays one task
    :param architecture: which network
    :param seed: of the model, the environments and the schedule
    """

    regime: Regime
    order: tuple[str, ...] = ()
    architecture: Architecture
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, architecture=self.architecture.fitted(self))
        length = {"mtrl": 0, "schedule": 0, "scratch": 1}.get(self.regime, len(self.order) or 1)
        check(
            len(self.order) == length and {*self.order} <= {*self.games},
            '`order` must be empty for "mtrl" and "schedule", one task for "scratch", and at least '
            f'one for "crl", among {", ".join(self.games)}, got {list(self.order)} for '
            f'"{self.regime}"',
        )
        check(
            (self.regime == "schedule") == (self.schedule is not None),
            '`schedule` must be given for the regime "schedule" and no other, got '
            f'{self.schedule} for "{self.regime}"',
        )
        check(
            self.steps_per_task % self.rollout == 0,
            f"`steps_per_task` must be a multiple of the rollout of {self.architecture.name!r}, "
            f"{self.rollout} steps in {self.n_envs} environments, got {self.steps_per_task}",
        )
        check_turns(self)

    @property
    def rollout(self) -> int:
        """Environment steps between two updates."""
        return rollout_of(self)

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run."""
        return self.steps_per_task * len(self.order or self.games) * self.cycles

    @property
    def name(self) -> str:
        """The name of its folder: what tells it from the study's other runs."""
        return self._named(self.regime, self.order, self.architecture.name)

    @property
    def start(self) -> str | None:
        """The name of the run that this one begins with, if it begins with one."""
        start = self.architecture.start_from
        if start is None or start.architecture is None:
            return None
        order = self.order if start.order is None else start.order
        return self._named(start.regime or self.regime, order, start.architecture)

    def _named(self, regime: str, order: tuple[str, ...], architecture: str) -> str:
        played = order or self.games
        parts = [regime, _in_a_folders_name(played), architecture, f"s{self.seed}"]
        if len("-".join(parts).encode()) > LONGEST_FOLDER:
            parts[1] = f"{len(played)}.{_digest(played)}"
        return "-".join(parts)

    @property
    def resolved(self) -> dict[str, Any]:
        """The algorithm's arguments that aren't SB3's own, as plain values."""
        values: dict[str, Any] = described(arguments_of(self))
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``config.json`` holds them."""
        values: dict[str, Any] = plain(self)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CellConfig:
        """Read what :meth:`to_dict` wrote."""
        return TypeAdapter(cls).validate_python(values)


def _in_a_folders_name(names: Sequence[str]) -> str:
    """Join names of tasks to a part of a folder's name, with a digest where it can't hold them."""
    joined = ".".join(names)
    simple = re.sub(r"[^\w.,=()+#-]+", "_", joined)
    return simple if simple == joined else f"{simple}~{_digest(names)}"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256(".".join(names).encode()).hexdigest()[:12]


def completed(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Add entries that did not exist yet when a folder was written, with their defaults.

    :param cell: what ``config.json`` holds of a run; nothing that it names is imported
    """
    architecture = {**_defaults(Architecture), **cell.get("architecture", {})}
    return {**_defaults(CellConfig), **cell, "architecture": architecture}


def _defaults(kind: Any) -> dict[str, Any]:
    made = {
        each.name: each.default if each.default is not MISSING else each.default_factory
        for each in fields(kind)
    }
    return {n: plain(v() if callable(v) else v) for n, v in made.items() if v is not MISSING}
