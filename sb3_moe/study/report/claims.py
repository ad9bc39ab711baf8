"""Claims as data: which runs are compared, on what, and what difference would matter."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sb3_moe.study.report.measures import MEASURES, WHOLE
from sb3_moe.study.report.references import openers
from sb3_moe.study.report.runs import Array, Run
from sb3_moe.study.report.verdict import (
    Expects,
    Rule,
)
from sb3_moe.study.spec.architectures import titles
from sb3_moe.study.spec.config import CellConfig, Regime
from sb3_moe.study.spec.entries import read_yaml, typed

#: By seed and game.
Values = dict[tuple[int, str], float]
#: A regime, and its order of games.
Setting = tuple[str, tuple[str, ...]]
#: As a file has it: a report shows 9 as it stands there, and not as 9.0.
Number = int | float
#: What tasks' returns are divided by before a mean over tasks.
Units = Mapping[str, Number]
#: How many of a claim's rows have to hold.
Needs = Literal["any", "all"]
#: A run, and what was measured of each game.
Measured = tuple[Run, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Which runs: those that match in everything that is named.

    :param architecture: the column's name
    :param regime: None for any
    :param order: of games, None or empty for any
    :raises ValueError: if there is no such regime
    """

    architecture: str
    regime: str | None = None
    order: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.regime not in (None, *get_args(Regime)):
            allowed = ", ".join(get_args(Regime))
            raise ValueError(f"`regime` must be one of {allowed}, got {self.regime!r}")

    def __str__(self) -> str:
        """Say it as the file does."""
        order = f"[{', '.join(self.order)}]" if self.order else None
        named = {"regime": self.regime, "architecture": self.architecture, "order": order}
        return f"{{{', '.join(f'{name}: {value}' for name, value in named.items() if value)}}}"

    def label(self, called: Mapping[str, str]) -> str:
        """Say which runs are meant.

        :param called: networks' titles
        """
        order = f"({', '.join(self.order)})" if self.order else None
        regime = self.regime.upper() if self.regime else None
        return " ".join(word for word in (regime, order, called[self.architecture]) if word)

    def matches(self, cell: CellConfig) -> bool:
        """Say whether a run is meant."""
        return (
            cell.architecture.name == self.architecture
            and self.regime in (None, cell.regime)
            and (not self.order or self.order == cell.order)
        )


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference between groups of runs, seed by seed and game by game.

    :param measure: one of :data:`~sb3_moe.study.report.measures.MEASURES`
    :param plus: groups that are added, one at least
    :param minus: groups that are subtracted; with none, the sum itself is tested
    :param expects: what the claim says of the difference
    :param smallest_effect: the smallest difference that matters, in the measure's unit
    :param primary: whether the verdict rests on it; the others are only shown
    :param over: ``"tasks"``: a seed has one value, the mean over the tasks for which the measure is
        defined, if it has them all; None: one for each task
    :param units: by task, what returns are divided by before that mean; empty: by nothing
    :raises ValueError: if a value is out of its range
    """

    measure: str
    plus: tuple[Selector, ...]
    minus: tuple[Selector, ...]
    expects: Expects
    smallest_effect: Number
    primary: bool = True
    over: str | None = None
    units: Units = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"`measure` must be one of {', '.join(MEASURES)}, got {self.measure}")
        if self.expects not in get_args(Expects):
            allowed = ", ".join(get_args(Expects))
            raise ValueError(f"`expects` must be one of {allowed}, got {self.expects!r}")
        if self.over not in (None, "tasks"):
            raise ValueError(f"`over` must be 'tasks', or left out, got {self.over!r}")
        if not 0 < self.smallest_effect < math.inf:
            raise ValueError(f"`smallest_effect` must be above 0, got {self.smallest_effect}")
        if not self.plus:
            raise ValueError("`plus` must have at least one group, got none")

    def label(self, called: Mapping[str, str]) -> str:
        """Say the difference: ``CRL SoftMoE-Big - CRL Dense``."""
        minus = "".join(f" - {selector.label(called)}" for selector in self.minus)
        return " + ".join(selector.label(called) for selector in self.plus) + minus

    @property
    def signs(self) -> Array:
        """Whether a group is added (1) or subtracted (-1), (groups,)."""
        return np.array([1.0] * len(self.plus) + [-1.0] * len(self.minus))

    def differences(self, measured: Sequence[Measured]) -> Values:
        """Give the difference for every seed and game that all groups have."""
        return {key: float(self.signs @ values) for key, values in self.groups(measured).items()}

    def groups(
        self,
        measured: Sequence[Measured],
        cells: Sequence[CellConfig] | None = None,
        paired: bool = True,
    ) -> dict[tuple[int, str], Array]:
        """Give each group's value, (groups,), for every seed and game that all groups have.

        Each group is averaged over its regimes and orders of games; while some are missing, over
        those that the groups share, lest the difference between these pass for theirs.

        :param cells: of the study, which say of what tasks a mean over them is; None: those of
            the runs
        :param paired: False: for every seed and game that any group has, NaN for one that lacks
            it, or a regime or order that its other seeds have
        """
        selectors = self.plus + self.minus
        groups = [_by_setting(selector, measured) for selector in selectors]
        found = {}
        for seed, game in sorted(set.union(*map(set, groups))):
            values = [group.get((seed, game), {}) for group in groups]
            known = values if paired else [_of_any_seed(group, game) for group in groups]
            alike = zip(values, _comparable(selectors, known), strict=True)
            row = np.array([_mean(each, settings) for each, settings in alike])
            if np.isfinite(row).all() or (not paired and np.isfinite(row).any()):
                found[seed, game] = row
        if self.over != "tasks":
            return found
        units = self.units if MEASURES[self.measure].unit == "return" else {}
        return _mean_over_tasks(found, self._tasks(measured, cells), units)

    def games(
        self, measured: Sequence[Measured], cells: Sequence[CellConfig] | None = None
    ) -> set[str]:
        """Name the games on which the contrast is defined, whether or not runs have a value.

        :param cells: as of :meth:`groups`
        """
        return {WHOLE} if self.over == "tasks" else self._tasks(measured, cells)

    def _tasks(self, measured: Sequence[Measured], cells: Sequence[CellConfig] | None) -> set[str]:
        """Name the tasks of which the measure is defined, and said something where it's success."""
        tasks = self.defined([run.cell for run, _ in measured] if cells is None else cells)
        if MEASURES[self.measure].unit == "success":
            tasks &= {
                task for _, values in measured for task in values if np.isfinite(values[task])
            }
        return tasks

    def defined(self, cells: Sequence[CellConfig]) -> set[str]:
        """Name the tasks for which the measure is defined in every group of a study."""
        groups = [
            {
                task
                for cell in cells
                if selector.matches(cell)
                for task in MEASURES[self.measure].games(cell)
            }
            for selector in self.plus + self.minus
        ]
        return set.intersection(*groups)

    def without_reference(self, cells: Sequence[CellConfig]) -> list[tuple[str, str]]:
        """List networks and tasks whose runs from scratch the measure needs and a study lacks."""
        games, tasks = cells[0].games, self.defined(cells)
        wanted = games if tasks == {WHOLE} else [game for game in games if game in tasks]
        found = {(cells[i].architecture.name, cells[i].order[0]) for i in openers(cells)}
        compared = (s.architecture for s in self.plus + self.minus)
        needed = dict.fromkeys(map(MEASURES[self.measure].reference, compared))
        return [
            (network, task)
            for network in needed
            if network is not None
            for task in wanted
            if (network, task) not in found
        ]


def _mean_over_tasks(
    values: dict[tuple[int, str], Array], tasks: Collection[str], units: Units
) -> dict[tuple[int, str], Array]:
    """Give seeds that have every task one value, under the name of them all."""
    seeds: dict[int, list[Array]] = defaultdict(list)
    for (seed, task), each in values.items():
        if task in tasks:
            seeds[seed].append(each / units[task] if units else each)
    return {
        (seed, WHOLE): np.mean(every, axis=0)
        for seed, every in seeds.items()
        if len(every) == len(tasks)
    }


def _by_setting(
    selector: Selector, measured: Sequence[Measured]
) -> dict[tuple[int, str], dict[Setting, float]]:
    """Give a group's values for every seed and game, by regime and order."""
    found: dict[tuple[int, str], dict[Setting, float]] = defaultdict(dict)
    for run, values in measured:
        if selector.matches(run.cell):
            for game, value in values.items():
                if np.isfinite(value):
                    found[run.cell.seed, game][run.cell.regime, run.cell.order] = value
    return found


def _of_any_seed(
    group: Mapping[tuple[int, str], Mapping[Setting, float]], game: str
) -> dict[Setting, float]:
    """Give the settings in which any seed of a group has a value for a game."""
    return {k: v for (_, of), values in group.items() if of == game for k, v in values.items()}


def _mean(values: Mapping[Setting, float], settings: Collection[Setting]) -> float:
    """Average over settings; NaN where there are none, or one has no value."""
    kept = [value for setting, value in values.items() if setting in settings]
    return float(np.mean(kept)) if kept and len(kept) == len(settings) else math.nan


def _comparable(
    selectors: Sequence[Selector], groups: Sequence[Mapping[Setting, float]]
) -> list[set[Setting]]:
    """Leave out what another group might have and lacks, unless the claim names the order."""
    free = [each for each in zip(selectors, groups, strict=True) if not each[0].order]

    def shared(setting: Setting) -> bool:
        alike = (group for selector, group in free if selector.regime in (None, setting[0]))
        return all(setting in group for group in alike)

    return [
        {setting for setting in group if selector.order or shared(setting)}
        for selector, group in zip(selectors, groups, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that was said, and the contrasts that test it.

    :param name: a word
    :param text: what is claimed
    :param contrasts: one at least; the verdict rests on those that are primary
    :param needs: ``"any"``: it holds if one primary row speaks for it and none against; ``"all"``:
        only if every one does, which needs no correction for their number
    :raises ValueError: if ``needs`` is neither, or there is no contrast
    """

    name: str
    text: str
    contrasts: tuple[Contrast, ...]
    needs: Needs = "any"

    def __post_init__(self) -> None:
        if self.needs not in get_args(Needs):
            raise ValueError(f"`needs` must be 'any' or 'all', got {self.needs!r}")
        if not self.contrasts:
            raise ValueError("`contrasts` must have at least one entry, got none")


@dataclass(frozen=True)
class Claims:
    """A file of claims.

    :param rule: how an interval becomes a verdict
    :param claims: in the order of the report
    :param units: of the contrasts, see :class:`Contrast`
    :raises ValueError: if a unit is not a number above 0, or two claims have one name
    """

    rule: Rule = field(default_factory=Rule)
    claims: tuple[Claim, ...] = ()
    units: Units = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [claim.name for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"`name` of claims must be different from each other, got {names}")
        for task, unit in self.units.items():
            if not (isinstance(unit, int | float) and 0 < unit < math.inf):
                raise ValueError(f"`units` must be numbers above 0, got {unit!r} for {task}")

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise unless the units, if there are any, are those of a study's tasks.

        :raises ValueError: naming the tasks
        """
        if self.units and set(self.units) != set(tasks):
            names = ", ".join(tasks)
            raise ValueError(f"`units` must name {names}, got {', '.join(self.units)}")

    def without_runs(self, cells: Sequence[CellConfig]) -> list[str]:
        """Say, a line each, which groups no run of a study belongs to: they may be misspelt."""
        found: dict[Selector, str] = {}
        for claim in self.claims:
            for selector in (s for c in claim.contrasts for s in c.plus + c.minus):
                if not any(map(selector.matches, cells)):
                    found.setdefault(selector, claim.name)
        return [
            f"claim {name!r} compares what no run of this study is: {selector}"
            for selector, name in found.items()
        ]

    def without_values(self, cells: Sequence[CellConfig]) -> list[str]:
        """Say, a line each, which measures no run of a study will have a value of."""
        lines, called = [], titles(cell.architecture.name for cell in cells)
        for claim in self.claims:
            for each in claim.contrasts:
                if not all(any(map(s.matches, cells)) for s in each.plus + each.minus):
                    continue  # that they have no runs is said already
                what = f"claim {claim.name!r}: `{each.measure}`"
                if not each.defined(cells):
                    lines.append(f"{what} is of no task that all of {each.label(called)} have")
                lines += [
                    f"{what} needs {network} alone on {task}, or at the start of a sequence, "
                    "with new weights, and no run of this study is that"
                    for network, task in each.without_reference(cells)
                ]
        return list(dict.fromkeys(lines))


@dataclass(frozen=True, kw_only=True)
class _File:
    """What a file holds, its claims yet to be read: what is wrong in one is said with its name."""

    claims: tuple[Any, ...]
    rule: Rule = field(default_factory=Rule)
    units: Units = field(default_factory=dict)


def load_claims(path: Path) -> Claims:
    """Read a file of claims.

    :raises ValueError: naming the file or the claim that can't be read, and why
    """
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(values, Mapping):
            raise ValueError(f"it must be a mapping, got {values!r}")
        file = typed(_File, values)
        claims = tuple(_read_claim(entry, file.units) for entry in file.claims)
        return Claims(file.rule, claims, file.units)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`claims` must be a file of claims and their rule, got {path.name}: {error}"
        ) from error


def _read_claim(entry: Any, units: Units) -> Claim:
    name = entry.get("name") if isinstance(entry, Mapping) else entry
    try:
        if not isinstance(entry, Mapping):
            raise ValueError("it must be a mapping")
        claim = typed(Claim, entry)
        if any(contrast.units for contrast in claim.contrasts):
            raise ValueError("`units` must stand beside `rule`, got those of a contrast")
    except ValueError as error:
        raise ValueError(f"claim {name!r}: {error}") from error
    contrasts = tuple(replace(contrast, units=units) for contrast in claim.contrasts)
    return replace(claim, contrasts=contrasts)
