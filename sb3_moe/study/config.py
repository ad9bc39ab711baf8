"""The configuration of a study, read from a YAML file, and of each of its runs.

Each entry is declared once: its type, range and default in the class, its meaning in the class's
docstring. The JSON schema and the docs' table are made from both.
"""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from docstring_parser import parse
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from sb3_moe.policies import presets
from sb3_moe.policies.options import DEFAULTS, MoEOptions
from sb3_moe.policies.registration import TABLE
from sb3_moe.study import building
from sb3_moe.study.building import STRICT, WORD_OR_MAPPING, NamedEntry, hint, read_yaml, typed
from sb3_moe.vec_env.task_ids import PAST_KEYS

#: The studies of this package.
PRESETS = ("smoke", "first-run", "paper-small", "paper-full")
#: Suffixes of the files of models.
MODELS = (".moe", ".zip")
# Most characters for the tasks in the name of a run's folder: file systems take 255 bytes.
LONGEST_TASKS = 120
# Development seeds are counted from here, so that they are none of the study's.
FIRST_DEVELOPMENT_SEED = 1_000

#: How tasks are trained: interleaved, one after the other, each alone, or by a schedule.
Regime = Literal["mtrl", "crl", "scratch", "schedule"]
Count = Annotated[int, Field(ge=1)]
#: A word that can be a folder's name.
Name = Annotated[str, Field(pattern=r"^[^\s/\\.][^\s/\\]*$", max_length=100)]


@dataclass(kw_only=True, config=STRICT)
class Evaluation:
    """How often the agent is evaluated while it trains, and over how many episodes.

    :param points: evaluations per task and visit, evenly spread, besides the one before training
    :param episodes: episodes of every task at each of them
    :param deterministic: whether the policy takes its most likely action
    """

    points: Count = 10
    episodes: Count = 20
    deterministic: bool = False


def _beside(path: Any, info: ValidationInfo) -> Any:
    """Resolve a path against the folder of the study's file, whatever the working directory is."""
    if not (info.context and path):
        return path
    return type(path)((info.context / path).absolute())


@dataclass(kw_only=True, config=STRICT)
class StartFrom:
    """Whose weights a network begins with: a file's, or those of another network of the study.

    :param model: path of a model's file, from the folder of the study's file: ``.moe``, or SB3's
        ``.zip``, but only from those you trust
    :param architecture: a network of the study; the weights are of its run of the same seed and
        regime
    :param order: the order of tasks in that run; None: the same as in the run that begins with it
    """

    model: Annotated[str, Field(pattern=r"\.(moe|zip)$"), AfterValidator(_beside)] | None = None
    architecture: str | None = None
    order: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.architecture is None):
            raise ValueError("`start_from` must have one of `model` and `architecture`")


def _start(value: Any, info: ValidationInfo) -> Any:
    """Read ``start_from``: a file, whose path is from the study's folder, or a network's name."""
    if isinstance(value, str):
        value = {"model" if value.endswith(MODELS) else "architecture": value}
    is_mapping = isinstance(value, Mapping)
    return typed(StartFrom, value, info.context, "start_from") if is_mapping else value


#: An entry that says whose weights a network begins with.
Start = Annotated[StartFrom, BeforeValidator(_start), WORD_OR_MAPPING]


@dataclass(kw_only=True, config=STRICT)
class Architecture:
    """A network of the study: a policy, and what it is built with.

    :param name: its name in folders and reports
    :param policy: an alias that the algorithm knows, or ``package.module:Class``; None: our policy
        for the study's observations
    :param policy_kwargs: plain values that override the preset's ``policy_kwargs``
    :param arguments: of the algorithm, such as a learning rate for this network; they override the
        study's
    :param callbacks: besides the study's, such as a plasticity intervention
    :param start_from: the trained model that it begins with; None: new weights
    """

    name: Name
    policy: str | None = None
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[NamedEntry, ...] = ()
    start_from: Start | None = None


#: The entries of an architecture that are not options of its policy.
OWN_ENTRIES = ("policy", "arguments", "callbacks", "start_from")


def named_architecture(
    name: str, options: Any = None, algorithm: str = "PPO", folder: Path | None = None
) -> Architecture:
    """Read an architecture of a study's file: ``dense``, ``soft-big``, ``MOORE``, ...

    :param name: a name that stands for options, such as those above; ``package.module:Class`` for a
        policy; or, with ``options``, any word. ``options`` override those that the name stands for
    :param options: ``policy_kwargs`` spelled out, and optionally ``policy``, ``arguments``,
        ``callbacks`` and ``start_from``
    :param algorithm: the study's
    :param folder: against which a path in ``start_from`` is resolved
    :raises ValueError: if the name stands for nothing and there are no options
    """
    if options is None and ":" in name:
        return Architecture(name=name.rpartition(":")[2], policy=name)
    building.algorithm_class(algorithm)  # raises if it is misspelled
    meant = _meant_by(name)
    if not meant and options is None:
        raise ValueError(
            "an architecture must be `dense`, `<router>-<placement>`, `package.module:Policy` or a "
            f"method of sb3_moe.presets, or have its options written out, got {name!r}"
        )
    if not isinstance(options, Mapping | None):
        raise ValueError(f"`architectures.{name}` must be a mapping of options, got {options!r}")
    kwargs = dict(options or {})
    own = {key: kwargs.pop(key) for key in OWN_ENTRIES if key in kwargs}
    if own.get("policy", TABLE[algorithm].aliases[0]) in TABLE[algorithm].aliases:
        kwargs = {**meant, **kwargs}
    values = {"name": name, "policy_kwargs": kwargs, **own}
    return typed(Architecture, values, folder, f"architectures.{name}")


def _as_word(value: Any) -> Any:
    """Return a value as a file can hold it: a class as ``package.module:Class``."""
    return f"{value.__module__}:{value.__qualname__}" if isinstance(value, type) else value


def _meant_by(name: str) -> dict[str, Any]:
    """Give the options that a name stands for; empty for a word of the user's."""
    if name == "dense":
        return {"placement": "none"}
    method = getattr(presets, name, {}) if name.isupper() else {}
    if method and "policy_kwargs" not in method:  # with it, they are arguments of an algorithm
        return {key: _as_word(value) for key, value in method.items()}
    router, _, placement = name.partition("-")
    try:
        MoEOptions(router=router, placement=placement)  # raises if one is unknown
    except ValueError:
        return {}
    return {"placement": placement, "router": router}


@dataclass(kw_only=True, config=STRICT)
class Setup:
    """What the runs of a study share.

    :param games: MinAtar's short names or Gymnasium ids; or give ``tasks``
    :param tasks: a suite's name (its tasks, not its schedule), or a list of ids and
        ``package.module:callable``, each also as ``[id, {arguments}]``
    :param env: arguments of ``make_multitask_vec_env``: ``task_id``, ``invalid_action``,
        ``vectorization``, ``history``, ``belief``
    :param no_op_max: largest number of no-ops at the start of an episode of MinAtar's ``games``;
        the suites have 30
    :param algorithm: any of [the table](algorithms.md)
    :param arguments: of the algorithm; they override the preset's (``train_freq`` in steps)
    :param preset: ``minatar`` is ``sb3_moe.presets.MINATAR_PPO``, the default for PPO; ``none`` are
        SB3's own values, the default for the others
    :param schedule: ``{Adaptive: {rule: "return>=200"}}`` or any [schedule](tasks.md), for the
        regime ``schedule``, which is then the default
    :param normalize: ``VecNormalize``, ``PerTaskVecNormalize`` or ``package.module:Class``, with
        arguments
    :param callbacks: further callbacks of every run: names from [callbacks](callbacks.md) or
        ``package.module:Class``, with arguments; evaluation and snapshots have entries of their own
    :param steps_per_task: steps of each task and visit, over all parallel environments; a multiple
        of the rollout
    :param cycles: how often the tasks are played through
    :param n_envs: parallel environments
    :param annealing: the learning rate falls to zero over the ``run`` or over each task's ``block``
    :param evaluation: evaluations per task and visit (``points``), ``episodes`` of every task at
        each, and whether actions are the most likely ones (``deterministic``, by default false)
    :param checkpoints: snapshots from which a run can go on, evenly spread
    :param device: torch's device, such as ``cuda``
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
        names = tuple(task.name for task in building.read_tasks(self.games, self.tasks))
        if not names or self.games not in ((), names) or len({*names}) < len(names):
            raise ValueError(
                "`games` must be one or more, all different, or left out where there are `tasks`, "
                f"got {list(self.games)}"
            )
        if self.tasks and self.no_op_max:
            raise ValueError("`no_op_max` must be left out where there are `tasks`, not `games`")
        self.games = names
        self.preset = self.preset or ("minatar" if self.algorithm == "PPO" else "none")

    @property
    def task_id(self) -> str:
        """How observations show which task is played."""
        return self.env.get("task_id", "dict")

    @property
    def shows_dict(self) -> bool:
        """Whether observations are a Dict: with the task id, a history or a belief."""
        return self.task_id == "dict" or not PAST_KEYS.isdisjoint(self.env)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return to_jsonable_python(self)


@dataclass(kw_only=True, config=STRICT)
class RunConfig(Setup):
    """One training run.

    :param regime: ``"mtrl"`` interleaves the tasks by steps, ``"crl"`` plays them one after the
        other, ``"scratch"`` trains on one task only, in the spaces of all of them, ``"schedule"``
        plays what ``schedule`` says
    :param order: the tasks that ``"crl"`` plays, one after the other, or the one of ``"scratch"``
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
        start = network.start_from
        if start is not None and start.order and self.regime not in ("crl", "scratch"):
            raise ValueError(
                f"`start_from.order` of {network.name!r} needs `regimes` that have orders, crl or "
                f"scratch, got {self.regime}"
            )
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
        """Environment steps between two updates, over all parallel environments.

        :raises ValueError: if rollouts are not counted in steps
        """
        name = "train_freq" if building.is_off_policy(self.algorithm) else "n_steps"
        length = building.value_of_argument(self, name)
        if not isinstance(length, int) or length < 1:
            # A report needs all runs to be evaluated, and to end, at the same steps.
            raise ValueError(f"`{name}` must be a number of steps, at least 1, got {length}")
        return self.n_envs * length

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run."""
        return self.steps_per_task * len(self.order or self.games) * self.cycles

    @property
    def name(self) -> str:
        """The name of the run's folder, which no other run of the study has."""
        return self._named(self.order, self.architecture.name)

    @property
    def start(self) -> str | None:
        """The name of the run whose weights this one begins with, if there is one."""
        start = self.architecture.start_from
        if start is None or start.architecture is None:
            return None
        return self._named(self.order if start.order is None else start.order, start.architecture)

    def _named(self, order: tuple[str, ...], architecture: str) -> str:
        played = ".".join(order or self.games)
        simple = re.sub(r"[^\w.,=()+#-]+", "_", played, flags=re.ASCII)[:LONGEST_TASKS]
        if simple != played:
            simple += f"~{hashlib.sha256(played.encode()).hexdigest()[:12]}"
        return f"{self.regime}-{simple}-{architecture}-s{self.seed}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote."""
        return TypeAdapter(cls).validate_python(values)


# The grid of runs.


def _counted(value: Any, start: int = 0) -> Any:
    """Turn a number of seeds into seeds that count up from ``start``; a list stays."""
    if isinstance(value, int):
        return tuple(range(start, start + value))
    return tuple(value) if isinstance(value, list) else value


_NUMBER_OR_LIST = WithJsonSchema({"type": ["integer", "array"]})
_DEVELOPMENT = BeforeValidator(partial(_counted, start=FIRST_DEVELOPMENT_SEED))
Seeds = Annotated[tuple[int, ...], BeforeValidator(_counted), _NUMBER_OR_LIST]
DevelopmentSeeds = Annotated[tuple[int, ...], _DEVELOPMENT, _NUMBER_OR_LIST]


def _architectures(value: Any, info: ValidationInfo) -> Any:
    """Read architectures: names, or mappings from names to options."""
    entries = value if isinstance(value, list | tuple) else [value]
    more = info.data.get("algorithm", "PPO"), info.context
    named = [each.items() if isinstance(each, Mapping) else [(each, None)] for each in entries]
    return tuple(
        name if isinstance(name, Architecture) else named_architecture(str(name), options, *more)
        for name, options in itertools.chain(*named)
    )


_OPTIONS: dict[str, Any] = {name: {} for name in (*DEFAULTS, "net_arch", *OWN_ENTRIES)}
_NETWORK = {"type": ["object", "null"], "properties": _OPTIONS}
_NETWORKS = WithJsonSchema({"type": ["array", "object"], "additionalProperties": _NETWORK})
Architectures = Annotated[tuple[Architecture, ...], BeforeValidator(_architectures), _NETWORKS]


def _about(value: Any, info: ValidationInfo) -> Any:
    """Read the file that ``about`` names."""
    if isinstance(value, str):
        value = read_yaml(((info.context or Path()) / value).read_text(encoding="utf-8"))
    return typed(About, value, where="about") if isinstance(value, Mapping) else value


@dataclass(kw_only=True, config=STRICT)
class About:
    """A study's own texts for its report, which takes the rest from the configuration.

    :param title: of the page; empty: the study's name, algorithm and tasks
    :param introduction: what the study asks and why; an empty line begins a new paragraph
    :param notes: choices that the configuration can't show, a sentence or two each
    :param reproduce: how to run it again
    """

    title: str = ""
    introduction: str = ""
    notes: tuple[str, ...] = ()
    reproduce: str = ""


@dataclass(kw_only=True, config=STRICT)
class Tune:
    """Values to try for one argument: each network gets its best before the study's seeds run.

    :param argument: of the algorithm, such as ``learning_rate``; a network whose own ``arguments``
        have it keeps that value
    :param values: to try
    :param seeds: development seeds, none of them the study's; a number of seeds counts up from 1000
    :param extensions: how often, at most, a further value is added if the best is at the grid's
        edge
    :param measure: the best value has the highest return while tasks are trained (``area``), or at
        the end of the run (``final``)
    """

    argument: str
    values: Annotated[tuple[int | float, ...], Field(min_length=2)]
    seeds: DevelopmentSeeds = (1000, 1001, 1002)
    extensions: Annotated[int, Field(ge=0)] = 3
    measure: Literal["area", "final"] = "area"


@dataclass(kw_only=True, config=STRICT)
class StudyConfig(Setup):
    """A grid of runs: every regime and order, with every architecture, for every seed.

    :param name: of the study, and of its folder under ``runs``
    :param architectures: the networks: a list of names, or a mapping from names to options
    :param only: run only these networks, and those whose weights they begin with; by default all
    :param regimes: ``mtrl`` interleaves the tasks, ``crl`` trains them one after the other,
        ``scratch`` each alone, ``schedule`` as the entry ``schedule`` says; by default
        ``[mtrl, crl]``, or ``[schedule]`` where there is a ``schedule``
    :param orders: orders of tasks for ``crl``: the one ``given``, its ``rotations``, ``all``
        permutations, or a list of orders
    :param seeds: the number of seeds, or a list of seeds
    :param tune: ``{argument: learning_rate, values: [1e-4, 3e-4, 1e-3], seeds: 3}``: each network
        takes its best value on development seeds, and the study's own seeds run with it
    :param random_episodes: episodes of each task that measure the random policy
    :param claims: the file of [claims](reports.md) that the report tests
    :param about: what the configuration can't say: ``title``, ``introduction``, ``notes``,
        ``reproduce``; or a file of these
    """

    name: Name
    architectures: Architectures
    only: tuple[str, ...] = ()
    regimes: tuple[Regime, ...] = ()
    orders: Literal["given", "rotations", "all"] | tuple[tuple[str, ...], ...] = "given"
    seeds: Seeds = (0,)
    tune: Tune | None = None
    random_episodes: Count = 64
    claims: Annotated[Path | None, AfterValidator(_beside)] = None
    about: Annotated[About, BeforeValidator(_about), WORD_OR_MAPPING] = field(default_factory=About)

    def __post_init__(self) -> None:
        self.regimes = self.regimes or (("schedule",) if self.schedule else ("mtrl", "crl"))
        super().__post_init__()
        names = self.networks
        if not {*self.only} <= {*names}:
            raise ValueError(f"`only` must name networks of the study, {names}, got {self.only}")
        if (self.schedule is None) == ("schedule" in self.regimes):
            raise ValueError('`regimes` must have "schedule" exactly if there is a `schedule`')
        if self.tune is not None:
            if shared := {*self.tune.seeds} & {*self.seeds}:
                raise ValueError(f"`tune.seeds` must be none of the study's `seeds`, got {shared}")
            tuned(self, {each.name: self.tune.values[0] for each in self.architectures})
        self._runs = self._grid()  # raises if there are none, or names are not unique

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them; of the path of ``claims`` only the file's name."""
        return super().to_dict() | {"claims": self.claims and self.claims.name}

    @property
    def networks(self) -> list[str]:
        """The names of the networks."""
        return [each.name for each in self.architectures]

    def runs(self) -> list[RunConfig]:
        """List the runs seed by seed, so that those that are done can be compared at any time.

        A run whose weights another begins with comes before it, and is added if the grid lacks it.
        """
        return list(self._runs)

    def _grid(self) -> list[RunConfig]:
        shared = {each.name: getattr(self, each.name) for each in fields(Setup)}
        del shared["schedule"]  # which the other regimes do without
        runs = [
            RunConfig(
                regime=regime,
                order=order,
                architecture=network,
                seed=seed,
                schedule=self.schedule if regime == "schedule" else None,
                **shared,
            )
            for seed in self.seeds
            for regime in self.regimes
            for order in self.sequences(regime)
            for network in self.architectures
            if not self.only or network.name in self.only
        ]
        # Different runs may have the same name, since tasks may have dashes too.
        if not 0 < len({run.name for run in runs}) == len(runs):
            raise ValueError(
                "`architectures`, `regimes`, `orders` and `seeds` must each have one or more "
                "entries, all different, since they name the runs"
            )
        return list({run.name: run for each in runs for run in self._chain(each)}.values())

    def _chain(self, run: RunConfig, behind: tuple[str, ...] = ()) -> list[RunConfig]:
        """List the runs whose weights a run builds on, oldest first, and then the run itself.

        :raises ValueError: if one begins with a network that doesn't exist, or in the end with
            itself
        """
        if run.start is None:
            return [run]
        start: Any = run.architecture.start_from
        networks = {each.name: each for each in self.architectures}
        if start.architecture not in networks or run.name in behind:
            raise ValueError(
                f"`architectures.{run.architecture.name}.start_from` must be a file that ends in "
                f"{' or '.join(MODELS)}, or another network of the study that doesn't begin with "
                f"this one, got {start.architecture!r}{hint(start.architecture, networks)}"
            )
        order = run.order if start.order is None else start.order
        before = replace(run, order=order, architecture=networks[start.architecture])
        return [*self._chain(before, (*behind, run.name)), run]

    def sequences(self, regime: Regime) -> list[tuple[str, ...]]:
        """List the orders of tasks that a regime has runs for."""
        if regime in ("mtrl", "schedule"):
            return [()]
        if regime == "scratch":
            return [(game,) for game in self.games]
        if self.orders == "all":
            return list(itertools.permutations(self.games))
        turned = [self.games[k:] + self.games[:k] for k in range(len(self.games))]
        named = {"given": turned[:1], "rotations": turned}
        return named[self.orders] if isinstance(self.orders, str) else list(self.orders)


def tuned(study: StudyConfig, values: Mapping[str, float]) -> StudyConfig:
    """Give a copy of a study in which networks have values of the tuned argument.

    :param values: by network; one whose own ``arguments`` have the argument keeps that value
    """
    assert study.tune is not None
    argument = study.tune.argument
    architectures = tuple(
        replace(each, arguments={argument: values[each.name], **each.arguments})
        if each.name in values
        else each
        for each in study.architectures
    )
    return replace(study, architectures=architectures, tune=None)


def load_study(name_or_path: str, architecture: Sequence[str] = (), **changes: Any) -> StudyConfig:
    """Read a preset of this package, or a YAML file.

    :param name_or_path: one of ``PRESETS`` or a path
    :param architecture: further networks
    :param changes: entries that replace the file's; those that are None are ignored
    :raises ValueError: naming the entry that is unknown or out of range
    """
    path = Path(name_or_path)
    if name_or_path in PRESETS:
        path = Path(__file__).parent / "presets" / f"{name_or_path}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"a study must be one of {', '.join(PRESETS)} or a YAML file, got {name_or_path!r}: "
            f"{error.strerror}"
        ) from error
    return read_study(text, path.parent, architecture, **changes)


def read_study(
    text: str, folder: Path, architecture: Sequence[str] = (), **changes: Any
) -> StudyConfig:
    """Read a study from YAML.

    :param folder: against which paths in it are resolved
    :raises ValueError: as in :func:`load_study`
    """
    values = read_yaml(text)
    if not isinstance(values, dict):
        raise ValueError(f"a study must be a YAML mapping, got {values!r}")
    changes = {name: value for name, value in changes.items() if value is not None}
    number, listed = changes.get("seeds"), values.get("seeds")
    if isinstance(number, int) and isinstance(listed, list):
        changes["seeds"] = first_of(listed, number)
    values |= changes
    if architecture:
        own = values.get("architectures", [])
        values["architectures"] = [*(own if isinstance(own, list) else [own]), *architecture]
    return typed(StudyConfig, values, folder)


def first_of(seeds: list[int], number: int) -> list[int]:
    """Give the first of the seeds that a file lists.

    :raises ValueError: if it does not list so many
    """
    if not 0 < number <= len(seeds):
        raise ValueError(f"`seeds` must be 1 to {len(seeds)}, of those listed, got {number}")
    return seeds[:number]


def schema() -> dict[str, Any]:
    """Give the JSON schema of a study's file, with which editors complete and check it."""
    found = TypeAdapter(StudyConfig).json_schema()
    for each in (*parse(str(Setup.__doc__)).params, *parse(str(StudyConfig.__doc__)).params):
        text = " ".join(str(each.description).replace("``", "`").split())
        found["properties"][each.arg_name]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
