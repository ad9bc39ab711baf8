"""What one training run is, as plain values, and what the runs of a study share.

Each entry is declared once: its type, range and default in the class, its meaning in the class's
docstring. The JSON schema and the docs' table are made from both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.placements import PLACEMENTS
from sb3_moe.policies.registration import TABLE
from sb3_moe.study import building
from sb3_moe.study.entries import STRICT, NamedEntry, in_words

#: How tasks come: together, one after the other, each alone, or by a schedule.
Regime = Literal["mtrl", "crl", "scratch", "schedule"]
Count = Annotated[int, Field(ge=1)]

#: Files of models, by how their names end.
MODELS = (".moe", ".zip")
# Characters of the tasks in the name of a run's folder: file systems take 255 bytes in all.
LONGEST_TASKS = 120


#: A word that can be a folder's name.
Name = Annotated[str, Field(pattern=r"^[^\s/\\.][^\s/\\]*$", max_length=100)]


@dataclass(kw_only=True, config=STRICT)
class Evaluation:
    """How often the agent is evaluated while it trains, and how closely.

    :param points: evaluations per task and visit, evenly spread, besides the one before training
    :param episodes: episodes of every task at each of them
    :param deterministic: whether the policy takes its most likely action
    """

    points: Count = 10
    episodes: Count = 20
    deterministic: bool = False


@dataclass(kw_only=True, config=STRICT)
class StartFrom:
    """Whose weights a network begins with: a file's, or those of another network of the study.

    :param model: path of a model beside the study's file, ``.moe`` or, only from those you trust,
        SB3's ``.zip``
    :param architecture: a network of the study, whose model of the same seed it is
    :param regime: of that network's run; None: as of the run that begins
    :param order: likewise
    """

    model: Annotated[str, Field(pattern=r"\.(moe|zip)$")] | None = None
    architecture: str | None = None
    regime: Regime | None = None
    order: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.architecture is None):
            raise ValueError("`start_from` must have one of `model` and `architecture`")


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


@dataclass(kw_only=True, config=STRICT)
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


#: What an architecture has besides options of its policy.
OWN_ENTRIES = ("policy", "arguments", "callbacks", "start_from")


def named_architecture(
    name: str, options: Any = None, algorithm: str = "PPO", folder: Path | None = None
) -> Architecture:
    """Read an architecture of a study's file: ``dense``, ``soft-big``, ``top_k-middle-pi``, ...

    :param name: any word if ``options`` are given, and ``package.module:Class`` for a policy; one
        that means something by itself keeps its meaning where options don't say otherwise
    :param options: ``policy_kwargs`` spelled out, and optionally ``policy``, ``arguments``,
        ``callbacks`` and ``start_from``
    :param algorithm: whose networks they are
    :param folder: against which a path in ``start_from`` is resolved
    :raises ValueError: if the name says nothing and no options do
    """
    if options is None and ":" in name:
        return Architecture(name=name.rpartition(":")[2], policy=name)
    meant = _meant_by(name, building.towers_of(algorithm))
    if not meant and options is None:
        raise ValueError(
            "an architecture must be `dense`, `<router>-<placement>`, `package.module:Policy` or "
            "`<router>-<placement>-<network>`, the network one of "
            f"{', '.join(building.towers_of(algorithm))}, or have its options written out, got "
            f"{name!r}"
        )
    if not isinstance(options, Mapping | None):
        raise ValueError(f"`architectures.{name}` must be a mapping of options, got {options!r}")
    own = {key: value for key, value in (options or {}).items() if key in OWN_ENTRIES}
    kwargs = {key: value for key, value in (options or {}).items() if key not in OWN_ENTRIES}
    if own.get("policy", TABLE[algorithm].aliases[0]) in TABLE[algorithm].aliases:
        kwargs = {**meant, **kwargs}
    try:
        values = {"name": name, "policy_kwargs": kwargs, **own}
        return TypeAdapter(Architecture).validate_python(values, context=folder)
    except ValidationError as error:
        raise ValueError(in_words(error, f"architectures.{name}")) from error


def _meant_by(name: str, towers: tuple[str, ...]) -> dict[str, Any]:
    """Give the options that a name stands for; none for a word of the user's."""
    if name == "dense":
        return {"placement": "none"}
    router, placement, tower, *_ = *name.split("-", 2), "", ""
    if router not in ROUTERS or placement not in PLACEMENTS or tower not in ("", *towers):
        return {}
    where = {each: placement if each == tower else "none" for each in towers}
    return {"placement": where if tower else placement, "router": router}


@dataclass(kw_only=True, config=STRICT)
class Setup:
    """What the runs of a study share.

    :param games: MinAtar's short names or Gymnasium ids; or give ``tasks``
    :param tasks: a suite's name (its tasks, not its schedule), or a list of ids,
        ``[id, {arguments}]`` and ``package.module:callable``
    :param env: arguments of ``make_multitask_vec_env``: ``task_id``, ``obs_space``,
        ``action_space``, ``invalid_action``, ``vectorization``, ``history``
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
    tasks: building.Entries = ()
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
        building.algorithm_class(self.algorithm)
        names = tuple(task.name for task in building.read_tasks(self.games, self.tasks))
        if not names or self.games not in ((), names) or len({*names}) < len(names):
            raise ValueError(
                "`games` must be different from each other, at least one, and left out where there "
                f"are `tasks`, got {list(self.games)}"
            )
        if self.tasks and self.no_op_max:
            raise ValueError("`no_op_max` must be left out where there are `tasks`: it is of games")
        self.games = names
        self.preset = self.preset or ("minatar" if self.algorithm == "PPO" else "none")

    @property
    def task_id(self) -> str:
        """How observations show which task is on."""
        return str(self.env.get("task_id", "dict"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        values: dict[str, Any] = to_jsonable_python(self)
        return values


@dataclass(kw_only=True, config=STRICT)
class RunConfig(Setup):
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
        network = self.architecture
        building.schedule_of(self)
        try:
            building.arguments_of(self)
        except (TypeError, ValueError) as error:
            raise ValueError(f"architecture {network.name!r}: {error}") from error
        if self.steps_per_task % self.rollout:
            raise ValueError(
                f"`steps_per_task` must be a multiple of the rollout of {network.name!r}, "
                f"{self.rollout} steps in {self.n_envs} environments, got {self.steps_per_task}"
            )

    @property
    def rollout(self) -> int:
        """Environment steps between two updates."""
        return building.rollout_of(self)

    @property
    def steps_between(self) -> int:
        """Steps from one evaluation to the next, before they wait for a rollout's end."""
        return max(1, self.steps_per_task // self.evaluation.points)

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
        played = ".".join(order or self.games)
        simple = re.sub(r"[^\w.,=()+#-]+", "_", played, flags=re.ASCII)[:LONGEST_TASKS]
        if simple != played:
            simple += f"~{hashlib.sha256(played.encode()).hexdigest()[:12]}"
        return f"{regime}-{simple}-{architecture}-s{self.seed}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Read what ``to_dict`` wrote."""
        return TypeAdapter(cls).validate_python(values)
