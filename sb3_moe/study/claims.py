"""Claims as data: which runs are compared, on what, and what difference would matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from sb3_moe.study.config import Regime, check
from sb3_moe.study.entries import STRICT, read_yaml, typed
from sb3_moe.study.measures import MEASURES

#: As a file has it: a report shows 9 as it stands there, and not as 9.0.
Number = Annotated[int | float, Field(gt=0, allow_inf_nan=False)]
#: A share.
Share = Annotated[float, Field(gt=0, lt=1)]
#: With fewer seeds nothing is decided.
FEWEST_SEEDS = 5


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rule:
    """What turns a difference into a verdict.

    :param alpha: level of the tests, after Holm's correction over the primary contrasts
    :param interval: coverage of the intervals
    :param min_seeds: with fewer, every verdict is ``"undecided"``; at least 5
    :param paired: compare runs of one seed with each other (Student's t); False: compare all seeds
        of each group (Welch's t), for runs of one seed that have little in common
    """

    alpha: Share = 0.05
    interval: Share = 0.95
    min_seeds: Annotated[int, Field(ge=FEWEST_SEEDS)] = FEWEST_SEEDS
    paired: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Contrast:
    """A difference between groups of runs, task by task.

    :param measure: one of :data:`~sb3_moe.study.measures.MEASURES`
    :param plus: groups that are added, at least one
    :param minus: groups that are subtracted; with none, the sum itself is tested
    :param expects: what the claim says of the difference
    :param smallest_effect: the smallest difference that matters, in the measure's unit
    :param primary: whether the verdict rests on it; the others are only shown
    :param over: ``"tasks"``: a seed has one value, the mean over the tasks for which the measure is
        defined, if it has them all; None: one for each task
    :raises ValueError: if there is no such measure
    """

    measure: str
    plus: Annotated[tuple[Selector, ...], Field(min_length=1)]
    minus: tuple[Selector, ...]
    expects: Literal["greater", "not_greater", "different"]
    smallest_effect: Number
    primary: bool = True
    over: Literal["tasks"] | None = None

    def __post_init__(self) -> None:
        known = self.measure in MEASURES
        check(known, f"`measure` must be one of {', '.join(MEASURES)}, got {self.measure}")

    def __str__(self) -> str:
        return " + ".join(map(str, self.plus)) + "".join(f" - {each}" for each in self.minus)

    @property
    def groups(self) -> tuple[Selector, ...]:
        """Those that are added, then those that are subtracted."""
        return self.plus + self.minus

    @property
    def alternative(self) -> str:
        """The side of its test."""
        return "two-sided" if self.expects == "different" else "greater"

    @property
    def signs(self) -> npt.NDArray[np.float64]:
        """Whether a group is added (1) or subtracted (-1), (groups,)."""
        return np.array([1.0] * len(self.plus) + [-1.0] * len(self.minus))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Claim:
    """Something that was said, and the contrasts that test it.

    :param name: a word
    :param text: what is claimed
    :param contrasts: at least one; the verdict rests on those that are primary
    :param needs: ``"any"``: it holds if one primary contrast speaks for it and none against;
        ``"all"``: only if every one does, which needs no correction for their number
    """

    name: str
    text: str
    contrasts: Annotated[tuple[Contrast, ...], Field(min_length=1)]
    needs: Literal["any", "all"] = "any"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Claims:
    """A file of claims.

    :param claims: in the order of the report
    :param rule: how a difference becomes a verdict
    :param units: what each task's returns are divided by before a mean over tasks; empty: nothing
    :raises ValueError: if two claims have one name
    """

    claims: tuple[Claim, ...] = ()
    rule: Rule = field(default_factory=Rule)
    units: Mapping[str, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [claim.name for claim in self.claims]
        different = len(set(names)) == len(names)
        check(different, f"`name` of claims must be different from each other, got {names}")


def load_claims(path: Path | None, tasks: tuple[str, ...]) -> Claims:
    """Read a file of claims; None for none.

    :param tasks: of the study: units must be theirs
    :raises ValueError: naming the file and the entry that can't be read, and why
    """
    if path is None:
        return Claims()
    try:
        claims = typed(Claims, read_yaml(path.read_text(encoding="utf-8")))
        same = not claims.units or set(claims.units) == set(tasks)
        check(same, f"`units` must name {', '.join(tasks)}, got {', '.join(claims.units)}")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`claims` must be a file of claims and their rule, got {path.name}: {error}"
        ) from error
    return claims
