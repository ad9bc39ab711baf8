"""Claims as data: which runs are compared, on what, and what difference would matter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sb3_moe.study.report.measures import MEASURES, WHOLE, openers
from sb3_moe.study.spec.config import CellConfig, Regime
from sb3_moe.study.spec.entries import read_yaml, typed

Expects = Literal["greater", "not_greater", "different"]
#: As a file has it: a report shows 9 as it stands there, and not as 9.0.
Number = int | float

#: With fewer seeds nothing is decided.
FEWEST_SEEDS = 5


def _check(rule: bool, text: str) -> None:
    if not rule:
        raise ValueError(text)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What turns a difference into a verdict.

    :param alpha: level of the tests, after Holm's correction over the primary contrasts
    :param interval: coverage of the intervals
    :param min_seeds: with fewer, every verdict is ``"undecided"``; at least 5
    :param paired: compare runs of one seed with each other (Student's t); False: compare all seeds
        of each group (Welch's t), for runs of one seed that have little in common
    :raises ValueError: if one is out of range
    """

    alpha: float = 0.05
    interval: float = 0.95
    min_seeds: int = FEWEST_SEEDS
    paired: bool = True

    def __post_init__(self) -> None:
        for name in ("alpha", "interval"):
            value = getattr(self, name)
            _check(0 < value < 1, f"`{name}` must be between 0 and 1, got {value}")
        enough = self.min_seeds >= FEWEST_SEEDS
        _check(enough, f"`min_seeds` must be at least {FEWEST_SEEDS}, got {self.min_seeds}")


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Which runs: those that match in everything that is named.

    :param architecture: the network's name
    :param regime: None for any
    :param order: of tasks, None or empty for any
    """

    architecture: str
    regime: Regime | None = None
    order: tuple[str, ...] | None = None

    def __str__(self) -> str:
        regime = self.regime.upper() if self.regime else ""
        order = f"({', '.join(self.order)})" if self.order else ""
        return " ".join(word for word in (regime, order, self.architecture) if word)

    def matches(self, cell: CellConfig) -> bool:
        """Say whether a run is meant."""
        return (
            cell.architecture.name == self.architecture
            and self.regime in (None, cell.regime)
            and (not self.order or self.order == cell.order)
        )


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference between groups of runs, task by task.

    :param measure: one of :data:`~sb3_moe.study.report.measures.MEASURES`
    :param plus: groups that are added, at least one
    :param minus: groups that are subtracted; with none, the sum itself is tested
    :param expects: what the claim says of the difference
    :param smallest_effect: the smallest difference that matters, in the measure's unit
    :param primary: whether the verdict rests on it; the others are only shown
    :param over: ``"tasks"``: a seed has one value, the mean over the tasks for which the measure is
        defined, if it has them all; None: one for each task
    :raises ValueError: if a value is out of its range
    """

    measure: str
    plus: tuple[Selector, ...]
    minus: tuple[Selector, ...]
    expects: Expects
    smallest_effect: Number
    primary: bool = True
    over: Literal["tasks"] | None = None

    def __post_init__(self) -> None:
        known = self.measure in MEASURES
        _check(known, f"`measure` must be one of {', '.join(MEASURES)}, got {self.measure}")
        size = self.smallest_effect
        _check(0 < size < math.inf, f"`smallest_effect` must be above 0, got {size}")
        _check(bool(self.plus), "`plus` must have at least one group, got none")

    def __str__(self) -> str:
        return " + ".join(map(str, self.plus)) + "".join(f" - {each}" for each in self.minus)

    @property
    def groups(self) -> tuple[Selector, ...]:
        """Those that are added, then those that are subtracted."""
        return self.plus + self.minus

    @property
    def signs(self) -> npt.NDArray[np.float64]:
        """Whether a group is added (1) or subtracted (-1), (groups,)."""
        return np.array([1.0] * len(self.plus) + [-1.0] * len(self.minus))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that was said, and the contrasts that test it.

    :param name: a word
    :param text: what is claimed
    :param contrasts: at least one; the verdict rests on those that are primary
    :param needs: ``"any"``: it holds if one primary contrast speaks for it and none against;
        ``"all"``: only if every one does, which needs no correction for their number
    :raises ValueError: if there is no contrast
    """

    name: str
    text: str
    contrasts: tuple[Contrast, ...]
    needs: Literal["any", "all"] = "any"

    def __post_init__(self) -> None:
        _check(bool(self.contrasts), "`contrasts` must have at least one entry, got none")


@dataclass(frozen=True, kw_only=True)
class Claims:
    """A file of claims.

    :param claims: in the order of the report
    :param rule: how a difference becomes a verdict
    :param units: what each task's returns are divided by before a mean over tasks; empty: nothing
    :raises ValueError: if a unit is not above 0, or two claims have one name
    """

    claims: tuple[Claim, ...]
    rule: Rule = field(default_factory=Rule)
    units: Mapping[str, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [claim.name for claim in self.claims]
        different = len(set(names)) == len(names)
        _check(different, f"`name` of claims must be different from each other, got {names}")
        for task, unit in self.units.items():
            finite = 0 < unit < math.inf
            _check(finite, f"`units` must be numbers above 0, got {unit!r} for {task}")

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise unless the units, if there are any, are those of a study's tasks.

        :raises ValueError: naming the tasks
        """
        names = ", ".join(tasks)
        same = not self.units or set(self.units) == set(tasks)
        _check(same, f"`units` must name {names}, got {', '.join(self.units)}")

    def without_runs(self, cells: Sequence[CellConfig]) -> list[str]:
        """Say, a line each, which groups no run of a study belongs to: they may be misspelled."""
        found = {
            group: claim.name
            for claim in reversed(self.claims)
            for contrast in claim.contrasts
            for group in contrast.groups
            if not any(map(group.matches, cells))
        }
        return [f"claim {name!r}: the study has no run of {group}" for group, name in found.items()]

    def without_values(self, cells: Sequence[CellConfig]) -> list[str]:
        """Say, a line each, which measures no run of a study will have a value of."""
        lines = [
            f"claim {claim.name!r}: `{contrast.measure}` {reason}"
            for claim in self.claims
            for contrast in claim.contrasts
            for reason in _reasons(contrast, cells)
        ]
        return list(dict.fromkeys(lines))


def _reasons(contrast: Contrast, cells: Sequence[CellConfig]) -> Iterator[str]:
    """Say why a contrast will have no values, if it will have none for some task."""
    groups = [[cell for cell in cells if group.matches(cell)] for group in contrast.groups]
    if not all(groups):
        return  # `without_runs` says it
    measure = MEASURES[contrast.measure]
    tasks = set.intersection(
        *({task for cell in group for task in measure.tasks(cell)} for group in groups)
    )
    if not tasks:
        yield f"is of no task that all runs of {contrast} have"
    alone = {(cell.architecture.name, cell.order[0]) for cell in openers(cells)}
    for group in contrast.groups if measure.beside else ():
        network = group.architecture if measure.beside == "own" else "dense"
        for task in cells[0].games:
            if (task in tasks or WHOLE in tasks) and (network, task) not in alone:
                yield f"needs a run of {network} that begins with {task}, which the study lacks"


def load_claims(path: Path) -> Claims:
    """Read a file of claims.

    :raises ValueError: naming the file and the entry that can't be read, and why
    """
    try:
        values: Any = read_yaml(path.read_text(encoding="utf-8"))
        _check(isinstance(values, Mapping), f"it must be a mapping, got {values!r}")
        return typed(Claims, values)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`claims` must be a file of claims and their rule, got {path.name}: {error}"
        ) from error
