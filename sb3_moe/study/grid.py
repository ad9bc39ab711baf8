"""A study as a YAML file: which runs there are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

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

from sb3_moe.policies.options import DEFAULTS
from sb3_moe.study.config import (
    MODELS,
    OWN_ENTRIES,
    Architecture,
    Count,
    Name,
    Regime,
    RunConfig,
    Setup,
    named_architecture,
)
from sb3_moe.study.entries import STRICT, hint, read_yaml, typed

#: The studies of this package.
PRESETS = ("smoke", "first-run", "paper-small", "paper-full")
# Development seeds are counted from here, so that they are none of the study's.
FIRST_DEVELOPMENT_SEED = 1_000


def _counted(value: Any, start: int = 0) -> Any:
    """Count a number of seeds up, or take the seeds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(start, start + value))
    return tuple(value) if isinstance(value, list) else value


_NUMBER_OR_LIST = WithJsonSchema({"type": ["integer", "array"]})
Seeds = Annotated[tuple[int, ...], BeforeValidator(_counted), _NUMBER_OR_LIST]
DevelopmentSeeds = Annotated[
    tuple[int, ...],
    BeforeValidator(partial(_counted, start=FIRST_DEVELOPMENT_SEED)),
    _NUMBER_OR_LIST,
]


def _architectures(value: Any, info: ValidationInfo) -> Any:
    """Read names, or names with their options."""
    entries = [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list | tuple):
        raise ValueError(f"`architectures` must be names, or names with options, got {value!r}")
    more, found = (info.data.get("algorithm", "PPO"), info.context), []
    for entry in entries:
        if isinstance(entry, Architecture):
            found.append(entry)
        elif isinstance(entry, Mapping):
            found += [named_architecture(name, each, *more) for name, each in entry.items()]
        else:
            found.append(named_architecture(str(entry), None, *more))
    return tuple(found)


_NETWORK: dict[str, Any] = {
    "properties": {name: {} for name in (*DEFAULTS, "net_arch", *OWN_ENTRIES)}
}
_ARCHITECTURE_SCHEMA = {"type": ["object", "null"], **_NETWORK}
Architectures = Annotated[
    tuple[Architecture, ...],
    BeforeValidator(_architectures),
    WithJsonSchema({"type": ["array", "object"], "additionalProperties": _ARCHITECTURE_SCHEMA}),
]


def _beside(path: Path | None, info: ValidationInfo) -> Path | None:
    """Take a path from the folder of the study's file."""
    path = info.context / path if info.context and path is not None else path
    if path is not None and not path.is_file():
        raise ValueError(f"`claims` must be a file, got {str(path)!r}")
    return path


def _about(value: Any, info: ValidationInfo) -> Any:
    """Read the file that ``about`` names."""
    if isinstance(value, str):
        path = (info.context or Path()) / value
        try:
            value = read_yaml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"`about` must be a mapping, or a file of one: {error}") from error
    notes = value.get("notes") if isinstance(value, Mapping) else None
    return {**value, "notes": tuple(notes)} if isinstance(notes, list) else value


@dataclass(kw_only=True, config=STRICT)
class About:
    """A study's own words; its report says the rest from the configuration.

    :param title: of the page, empty for one made of the study's name, algorithm and tasks
    :param introduction: what is asked and why; an empty line begins a new paragraph
    :param notes: choices that the configuration can't tell, a sentence or two each
    :param reproduce: how to run it again
    """

    title: str = ""
    introduction: str = ""
    notes: tuple[str, ...] = ()
    reproduce: str = ""


@dataclass(kw_only=True, config=STRICT)
class Tune:
    """Values of one argument, of which each network takes its best before the study's seeds run.

    :param argument: of the algorithm, such as ``learning_rate``; a network whose own ``arguments``
        have it keeps that value
    :param values: to try
    :param seeds: development seeds, none of the study's; a number of them counts from 1000
    :param extensions: how often, at most, the grid gets a further value where the best is at its
        edge
    """

    argument: str
    values: Annotated[tuple[int | float, ...], Field(min_length=2)]
    seeds: DevelopmentSeeds = (1000, 1001, 1002)
    extensions: Annotated[int, Field(ge=0)] = 3


@dataclass(kw_only=True, config=STRICT)
class StudyConfig(Setup):
    """A grid of runs: every regime and order, with every architecture, for every seed.

    :param name: of the study, and of its folder under ``runs``
    :param architectures: the networks: a list of names, or a mapping from names to options
    :param only: the networks whose runs are left, with those that they begin with; by default all
    :param regimes: ``mtrl`` interleaves, ``crl`` one after the other, ``scratch`` one task alone,
        ``schedule`` what ``schedule`` says; by default ``[mtrl, crl]``, or ``[schedule]`` where
        there is a ``schedule``
    :param orders: of ``crl``: the order given, its ``rotations``, ``all`` permutations, or a list
        of orders
    :param seeds: a number of seeds, or the seeds
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
    about: Annotated[
        About, BeforeValidator(_about), WithJsonSchema({"type": ["string", "object"]})
    ] = field(default_factory=About)

    def __post_init__(self) -> None:
        self.regimes = self.regimes or (("schedule",) if self.schedule else ("mtrl", "crl"))
        super().__post_init__()
        names = [each.name for each in self.architectures]
        lists: dict[str, Any] = {"architectures": names, "seeds": self.seeds}
        for name, values in {**lists, "regimes": self.regimes, "orders": self.orders}.items():
            if not isinstance(values, str) and not 0 < len({*values}) == len(values):
                raise ValueError(
                    f"`{name}` must be different from each other, at least one, got {values}"
                )
        if not {*self.only} <= {*names}:
            raise ValueError(f"`only` must name networks of the study, {names}, got {self.only}")
        if (self.schedule is None) == ("schedule" in self.regimes):
            raise ValueError('`regimes` must have "schedule" where there is a `schedule`, and only')
        if self.tune is not None:
            if shared := {*self.tune.seeds} & {*self.seeds}:
                raise ValueError(f"`tune.seeds` must be none of the study's `seeds`, got {shared}")
            tuned(self, {each.name: self.tune.values[0] for each in self.architectures})
        self._runs = self._grid()  # which checks that there are such

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them, with the name of the claims' file alone."""
        return super().to_dict() | {"claims": self.claims and self.claims.name}

    def runs(self) -> list[RunConfig]:
        """List the runs, whole seeds first: what is finished can be compared at any time.

        A run that another begins with comes before it, and is added where the grid lacks it.
        """
        return list(self._runs)

    def _grid(self) -> list[RunConfig]:
        shared = {each.name: getattr(self, each.name) for each in fields(Setup)}
        grid = [
            RunConfig(
                regime=regime,
                order=order,
                architecture=architecture,
                seed=seed,
                **shared | ({} if regime == "schedule" else {"schedule": None}),
            )
            for seed in self.seeds
            for regime in self.regimes
            for order in self.sequences(regime)
            for architecture in self.architectures
            if not self.only or architecture.name in self.only
        ]
        names = [run.name for run in grid]  # of tasks and architectures, which may have dashes
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"runs must have different names: rename an architecture, got {twice}")
        chains = itertools.chain.from_iterable(self._chain(run) for run in grid)
        return list({run.name: run for run in chains}.values())

    def _chain(self, run: RunConfig, behind: tuple[str, ...] = ()) -> list[RunConfig]:
        """Give a run behind the one that it begins with, and so on.

        :raises ValueError: if it begins with one that there isn't, or in the end with itself
        """
        start = run.architecture.start_from
        if start is None or start.architecture is None:
            return [run]
        networks = {each.name: each for each in self.architectures}
        if start.architecture not in networks or run.name in behind:
            raise ValueError(
                f"`architectures.{run.architecture.name}.start_from` must be a file that ends in "
                f"{' or '.join(MODELS)}, or another network of the study that doesn't begin with "
                f"this one, got {start.architecture!r}{hint(start.architecture, networks)}"
            )
        regime = start.regime or run.regime
        before = replace(
            run,
            regime=regime,
            order=run.order if start.order is None else start.order,
            architecture=networks[start.architecture],
            schedule=self.schedule if regime == "schedule" else None,
        )
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
    """Give a study in which networks have a value of the argument that is tuned.

    :param values: of each network; one that says the argument itself keeps its own
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
    :param changes: entries in place of the file's; those that are None are left
    :raises ValueError: naming the entry that is unknown or out of range
    """
    path = Path(name_or_path)
    if name_or_path in PRESETS:
        path = Path(str(resources.files("sb3_moe.study"))) / "presets" / f"{name_or_path}.yaml"
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
    :raises ValueError: as of :func:`load_study`
    """
    values = read_yaml(text)
    if not isinstance(values, dict):
        raise ValueError(f"a study must be a YAML mapping, got {values!r}")
    values |= {name: value for name, value in changes.items() if value is not None}
    if architecture:
        own = values.get("architectures", [])
        values["architectures"] = [*(own if isinstance(own, list) else [own]), *architecture]
    return typed(StudyConfig, values, folder)


def schema() -> dict[str, Any]:
    """Give the JSON schema of a study's file, with which editors complete and check it."""
    found: dict[str, Any] = TypeAdapter(StudyConfig).json_schema()
    told = [*parse(str(Setup.__doc__)).params, *parse(str(StudyConfig.__doc__)).params]
    for each in told:
        text = " ".join(str(each.description).replace("``", "`").split())
        found["properties"][each.arg_name]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def table() -> str:
    """Give the docs' table of entries, from the same declarations."""
    rows = ["| entry | default | meaning |", "|---|---|---|"]
    for name, each in schema()["properties"].items():
        default = f"`{json.dumps(each['default'])}`" if each.get("default") is not None else ""
        rows.append(f"| `{name}` | {default} | {each['description']} |")
    return "\n".join(rows) + "\n"
