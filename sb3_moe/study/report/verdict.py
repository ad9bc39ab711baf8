"""From differences to a verdict, by a rule that is fixed before the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Expects = Literal["greater", "not_greater", "different"]
Verdict = Literal["supported", "contradicted", "undecided"]

#: Bootstrap intervals of fewer say next to nothing.
FEWEST_SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What turns an interval into a verdict.

    :param alpha: level of the tests, after Holm's correction over the primary contrasts
    :param interval: coverage of the intervals
    :param min_seeds: with fewer, every verdict is ``"undecided"``; at least 5
    :param paired: whether runs of one seed are compared with each other; False: Welch's test and
        interval over all seeds of each group, for seeds whose runs have little in common
    :raises ValueError: if one is out of range
    """

    alpha: float = 0.05
    interval: float = 0.95
    min_seeds: int = FEWEST_SEEDS
    paired: bool = True

    @property
    def kind(self) -> str:
        """Say which intervals these are."""
        return "bootstrap" if self.paired else "Welch"

    def __post_init__(self) -> None:
        for name in ("alpha", "interval"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {value}")
        if not isinstance(self.paired, bool):
            raise ValueError(f"`paired` must be true or false, got {self.paired!r}")
        if self.min_seeds < FEWEST_SEEDS:
            raise ValueError(f"`min_seeds` must be at least {FEWEST_SEEDS}, got {self.min_seeds}")


class Estimate(NamedTuple):
    """A difference over seeds: its mean, intervals, and a test.

    ``low``, ``high``: bootstrap interval. ``p_greater``, ``p_different``: of a paired t test that
    the mean is at most 0, or is 0. ``t_low``, ``t_high``: Student's interval, which is wider where
    seeds are few. Of groups that aren't paired all of these are Welch's, and ``seeds`` is the
    number of the smallest group.
    """

    mean: float
    low: float
    high: float
    p_greater: float
    p_different: float
    seeds: int
    t_low: float = float("nan")
    t_high: float = float("nan")

    def p_value(self, expects: Expects) -> float:
        """Give the test that belongs to what a claim expects."""
        return self.p_different if expects == "different" else self.p_greater

    def by_t(self) -> Estimate:
        """Give the same with Student's interval in place of the bootstrap."""
        return self._replace(low=self.t_low, high=self.t_high)


def decide(
    estimate: Estimate, p_adjusted: float, expects: Expects, smallest: float, rule: Rule
) -> Verdict:
    """Apply the rule to one contrast.

    ``"greater"`` is supported when the difference is at least the smallest effect that matters and
    its adjusted test is significant, and contradicted when the interval rules that effect out.
    ``"not_greater"`` is the same with the two swapped. ``"different"`` looks at both sides.

    :param estimate: the paired difference
    :param p_adjusted: of its test, after Holm's correction
    :param expects: what the claim says of the difference
    :param smallest: the smallest effect that matters, above 0
    :param rule: levels
    """
    if estimate.seeds < rule.min_seeds or not np.isfinite(estimate.mean):
        return "undecided"
    size = abs(estimate.mean) if expects == "different" else estimate.mean
    largest = max(-estimate.low, estimate.high) if expects == "different" else estimate.high
    there = size >= smallest and p_adjusted < rule.alpha
    ruled_out = largest < smallest
    if expects == "not_greater":
        there, ruled_out = ruled_out, there
    return "supported" if there else "contradicted" if ruled_out else "undecided"


def combine(verdicts: Sequence[Verdict], every: bool = False) -> Verdict:
    """Give one verdict for several games: supported in some, contradicted in none; or reverse.

    :param verdicts: of the games
    :param every: supported only if all are, and contradicted if any is
    """
    supported, contradicted = "supported" in verdicts, "contradicted" in verdicts
    if every:
        supported = supported and set(verdicts) == {"supported"}
    if supported == contradicted:
        return "undecided"
    return "supported" if supported else "contradicted"


def t_tests(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Test that the mean is at most 0, and that it is 0; (1, 1) for fewer than two seeds."""
    if len(differences) < 2:
        return 1.0, 1.0
    if np.ptp(differences) == 0:  # no spread: the t statistic is not defined
        sign = float(np.sign(differences[0]))
        return (0.0 if sign > 0 else 1.0), (0.0 if sign else 1.0)
    greater = stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue
    different = stats.ttest_1samp(differences, 0.0).pvalue
    return float(greater), float(different)


def t_interval(differences: npt.NDArray[np.float64], coverage: float = 0.95) -> tuple[float, float]:
    """Give Student's interval of the mean; none for fewer than two seeds."""
    count = len(differences)
    if count < 2:
        return float("nan"), float("nan")
    error = np.std(differences, ddof=1) / np.sqrt(count)
    half = float(stats.t.ppf(0.5 + coverage / 2, count - 1) * error)
    mean = float(np.mean(differences))
    return mean - half, mean + half


def welch(
    values: npt.NDArray[np.float64], signs: npt.NDArray[np.float64], coverage: float = 0.95
) -> Estimate:
    """Estimate a difference between groups of runs whose seeds have nothing in common.

    :param values: of every seed and group, (seeds, groups), NaN where a group lacks a seed; each
        has one at least
    :param signs: 1 for a group that is added, -1 for one that is subtracted, (groups,)
    :param coverage: of the interval, by Welch's degrees of freedom
    """
    counts = np.isfinite(values).sum(0)
    fewest, mean = int(counts.min()), float(signs @ np.nanmean(values, 0))
    if fewest < 2:
        nothing = float("nan")
        return Estimate(mean, nothing, nothing, 1.0, 1.0, fewest)
    squares = np.nanvar(values, 0, ddof=1) / counts
    error = float(np.sqrt(squares.sum()))
    if error == 0:  # no spread: the t statistic is not defined
        return Estimate(mean, mean, mean, *t_tests(np.full(fewest, mean)), fewest, mean, mean)
    freedom = squares.sum() ** 2 / (np.square(squares) / (counts - 1)).sum()
    half = float(stats.t.ppf(0.5 + coverage / 2, freedom)) * error
    greater, different = (
        stats.t.sf(mean / error, freedom),
        2 * stats.t.sf(abs(mean) / error, freedom),
    )
    ends = mean - half, mean + half
    return Estimate(mean, *ends, float(greater), float(different), fewest, *ends)
