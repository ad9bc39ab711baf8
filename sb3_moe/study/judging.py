"""Test claims, and differences between networks, on the table of a study's results.

Shapes: S seeds, G groups of runs.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import stats

from sb3_moe.measures.statistics import holm
from sb3_moe.study.building import STRICT, read_yaml, typed
from sb3_moe.study.config import Regime
from sb3_moe.study.results import MEASURES, WHOLE, Array

#: A positive number, whole if the file has it so: a report shows 9 as 9 and not as 9.0.
Number = Annotated[int | float, Field(gt=0, allow_inf_nan=False)]
MeasureName = Literal[tuple(MEASURES)]  # type: ignore[valid-type]  # known when it is imported
#: A share, between 0 and 1.
Share = Annotated[float, Field(gt=0, lt=1)]
#: With fewer seeds nothing is decided.
FEWEST_SEEDS = 5
# The columns of a summary for a network's difference from the first, as in `Estimate`.
_COMPARED = ("difference", "difference_low", "difference_high", "p", "seeds_compared")


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
    """Select the runs that match all of these entries.

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
        return " ".join(filter(None, (regime, order, self.architecture)))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Contrast:
    """A difference between groups of runs, task by task.

    :param measure: one of :data:`~sb3_moe.study.results.MEASURES`
    :param plus: groups that are added, at least one
    :param minus: groups that are subtracted; with none, the sum itself is tested
    :param expects: what the claim says of the difference
    :param smallest_effect: the smallest difference that matters, in the measure's unit
    :param primary: whether the verdict rests on it; the others are only shown
    :param over: ``"tasks"``: a seed has one value, the mean over the tasks for which the measure is
        defined, if it has values for all of them; None: one value for each task
    """

    measure: MeasureName  # type: ignore[valid-type]  # as above
    plus: Annotated[tuple[Selector, ...], Field(min_length=1)]
    minus: tuple[Selector, ...]
    expects: Literal["greater", "not_greater", "different"]
    smallest_effect: Number
    primary: bool = True
    over: Literal["tasks"] | None = None

    def __str__(self) -> str:
        return " + ".join(map(str, self.plus)) + "".join(f" - {each}" for each in self.minus)

    @property
    def groups(self) -> tuple[Selector, ...]:
        """The groups that are added, then those that are subtracted."""
        return self.plus + self.minus

    @property
    def alternative(self) -> str:
        """The alternative hypothesis of its t test."""
        return "two-sided" if self.expects == "different" else "greater"

    @property
    def signs(self) -> Array:
        """Whether a group is added (1) or subtracted (-1), (groups,)."""
        return np.array([1.0] * len(self.plus) + [-1.0] * len(self.minus))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Claim:
    """A claim, and the contrasts that test it.

    :param name: a word, by which no other claim is named
    :param text: what is claimed
    :param contrasts: at least one; the verdict rests on those that are primary
    :param needs: ``"any"``: it holds if one primary contrast supports it and none contradicts it;
        ``"all"``: it holds only if each supports it, which needs no correction for their number
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
        if len({*names}) < len(names):
            raise ValueError(f"`name` of claims must be different from each other, got {names}")


def load_claims(path: Path | None, tasks: tuple[str, ...]) -> Claims:
    """Read a file of claims; without a file there are none.

    :param path: the file; None: no claims
    :param tasks: of the study; ``units`` must name exactly these
    :raises ValueError: naming the file and the entry that can't be read, and why
    """
    if path is None:
        return Claims()
    try:
        claims = typed(Claims, read_yaml(path.read_text(encoding="utf-8")))
        if claims.units and {*claims.units} != {*tasks}:
            raise ValueError(f"`units` must name {', '.join(tasks)}, got {', '.join(claims.units)}")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`claims` must be a file of claims and their rule, got {path.name}: {error}"
        ) from error
    return claims


class Estimate(NamedTuple):
    """A difference between groups, its interval, and the p of its t test.

    The null hypothesis is that the difference is 0, or, tested one-sided, at most 0. ``seeds`` is
    the number of seeds of the smallest group.
    """

    difference: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    seeds: int = 0


def t_interval(values: Array, coverage: float = 0.95) -> tuple[Any, Any]:
    """Give Student's interval of the mean over seeds; NaN for fewer than two.

    :param values: (S, ...)
    """
    mean = np.mean(values, axis=0)
    count = len(values)
    error = stats.sem(values, axis=0) if count > 1 else np.nan
    half = stats.t.ppf(0.5 + coverage / 2, count - 1) * error
    return mean - half, mean + half


def welch(values: Array, signs: Array, rule: Rule, alternative: str = "two-sided") -> Estimate:
    """Estimate a signed sum of groups by Welch's t test, which is Student's for one group.

    :param values: (S, G), NaN where a group lacks a seed
    :param signs: 1 for a group that is added, -1 for one that is subtracted, (G,)
    :param rule: if it is paired, the sum is taken seed by seed, and tested as one group
    :param alternative: ``"greater"`` or ``"two-sided"``
    """
    if rule.paired:
        values = (values @ signs)[:, None]
        signs = np.ones(1)
    counts = np.isfinite(values).sum(axis=0)
    if not counts.all():
        return Estimate()
    fewest = int(counts.min())
    mean = float(signs @ np.nanmean(values, axis=0))
    if fewest < 2:
        return Estimate(mean, p=1.0, seeds=fewest)
    sides, size = (1, mean) if alternative == "greater" else (2, abs(mean))
    squares = np.nanvar(values, axis=0, ddof=1) / counts
    error = math.sqrt(squares.sum())
    if error == 0:  # no spread: the t statistic is not defined
        return Estimate(mean, mean, mean, float(size <= 0), fewest)
    freedom = squares.sum() ** 2 / (np.square(squares) / (counts - 1)).sum()
    half = stats.t.ppf(0.5 + rule.interval / 2, freedom) * error
    p = sides * stats.t.sf(size / error, freedom)
    return Estimate(mean, mean - half, mean + half, p, fewest)


def values_of_groups(
    table: pd.DataFrame, groups: Sequence[Selector], paired: bool = True
) -> pd.DataFrame:
    """Give each group's value for every seed and task, as (task, seed) by group.

    A value is the mean over those regimes and orders of tasks that the study has for all groups:
    a difference between regimes or orders must not pass for one between groups. A seed counts only
    if it has a value for each of them.

    :param table: the rows of one measure
    :param paired: only seeds that all groups have; False: NaN for a group that lacks a seed
    """
    rows = [_selected(table, group) for group in groups]
    values = []
    for group, own in zip(groups, rows, strict=True):
        for other, theirs in zip(groups, rows, strict=True):
            # Orders, and two regimes, that a claim names are compared as they are.
            differ = group.regime and other.regime and group.regime != other.regime
            if not (group.order or other.order or differ):
                own = own[_settings(own).isin(_settings(theirs))]
        seeds = own.groupby(["task", "seed"])["value"]
        values.append(seeds.agg(lambda each: each.mean(skipna=False)))
    wide = pd.concat(values, axis=1, keys=range(len(groups)))
    return wide.dropna(how="any" if paired else "all")


def _settings(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[["task", "regime", "order"]])


def _selected(table: pd.DataFrame, group: Selector) -> pd.DataFrame:
    """Give the rows of a group of runs."""
    mine = table["architecture"] == group.architecture
    if group.regime:
        mine &= table["regime"] == group.regime
    if group.order:
        mine &= table["order"] == " ".join(group.order)
    return table[mine]


def compare(
    table: pd.DataFrame,
    measure: str,
    groups: Sequence[Selector],
    claims: Claims,
    over: str | None = None,
) -> dict[str, Array]:
    """Give the values (S, G) of groups in a measure, by task; (0, G) if a group has none.

    :param table: of results
    :param over: as in :class:`Contrast`
    """
    rows = table[(table["measure"] == measure) & table["step"].isna()]
    if MEASURES[measure].unit == "success":  # only defined for tasks that report success
        rows = rows[rows.groupby("task")["value"].transform("count") > 0]
    # The tasks for which the measure is defined in every group, whether runs are done or not.
    of_groups = [set(_selected(rows, each)["task"]) for each in groups]
    tasks = sorted(set.intersection(*of_groups))
    values = values_of_groups(rows, groups, claims.rule.paired)
    if over == "tasks":
        values = _over_tasks(values, tasks, measure, claims)
        tasks = [WHOLE]
    found = dict.fromkeys(tasks or [WHOLE], np.zeros((0, len(groups))))
    for task, seeds in values.groupby(level="task") if len(values) else ():
        if seeds.notna().any().all():
            found[str(task)] = seeds.to_numpy()
    return found


def _over_tasks(
    values: pd.DataFrame, tasks: list[str], measure: str, claims: Claims
) -> pd.DataFrame:
    """Average over tasks the seeds that have every task; give them as (task, seed) by group."""
    if values.empty:
        return values
    if claims.units and MEASURES[measure].unit == "return":
        values = values.div(pd.Series(dict(claims.units)), axis=0, level="task")
    groups = [values[each].unstack("task").reindex(columns=tasks) for each in values]
    of_groups = [each.mean(axis=1, skipna=False) for each in groups]
    means = pd.concat(of_groups, axis=1)
    means = means.dropna(how="any" if claims.rule.paired else "all")
    return pd.concat({WHOLE: means}, names=["task"])


def missing(claims: Claims, table: pd.DataFrame) -> list[str]:
    """List, a line each, the comparisons that will have no value in a study: a name may be wrong.

    :param table: see :func:`~sb3_moe.study.results.complete_table`
    """
    rows: Any = judge(claims, table).to_dict("records")
    text = "claim {claim!r}: no run gives `{measure}` of {task} for {contrast}"
    return list(dict.fromkeys(text.format(**row) for row in rows if not row["seeds"]))


def judge(claims: Claims, table: pd.DataFrame) -> pd.DataFrame:
    """Test every claim on the results that there are.

    :return: a row for each contrast and task, with its ``verdict`` and that of its claim; contrasts
        without values are ``"not tested"``. ``p_adjusted`` is NaN where no correction is needed
    """
    found = [
        {
            "claim": claim.name,
            "text": claim.text,
            "needs": claim.needs,
            "contrast": str(each),
            "plus": " + ".join(map(str, each.plus)),
            "minus": " + ".join(map(str, each.minus)),
            "measure": each.measure,
            "task": task,
            "primary": each.primary,
            "expects": each.expects,
            "smallest_effect": each.smallest_effect,
            **welch(values, each.signs, claims.rule, each.alternative)._asdict(),
        }
        for claim in claims.claims
        for each in claim.contrasts
        for task, values in compare(table, each.measure, each.groups, claims, each.over).items()
    ]
    verdicts = pd.DataFrame(found)
    if not found:
        return verdicts
    primary = verdicts["primary"]
    verdicts["p_adjusted"] = _corrected(verdicts["p"][primary & (verdicts["needs"] == "any")])
    verdicts["verdict"] = [decide(row, claims.rule) for row in verdicts.to_dict("records")]
    for claim in claims.claims:
        own = verdicts["claim"] == claim.name
        verdict = combine(set(verdicts["verdict"][own & primary]), claim.needs == "all")
        verdicts.loc[own, "claim_verdict"] = verdict
    return verdicts


def _corrected(p: pd.Series) -> pd.Series:
    """Apply Holm's correction to the p-values of one family; comparisons without one stay NaN."""
    tested = p.dropna()
    return pd.Series(holm(tested), tested.index, float).reindex(p.index)


def decide(row: Mapping[Any, Any], rule: Rule) -> str:
    """Apply the rule to a contrast on one task.

    ``"greater"`` is supported when the difference is at least the smallest effect that matters and
    its adjusted test is significant, and contradicted when the interval rules that effect out.
    ``"not_greater"`` is the same with the two swapped. ``"different"`` looks at both sides.
    """
    if not row["seeds"]:
        return "not tested"
    if row["seeds"] < rule.min_seeds:
        return "undecided"
    size = row["difference"]
    largest = row["high"]
    smallest = row["smallest_effect"]
    if row["expects"] == "different":
        size = abs(size)
        largest = max(-row["low"], largest)
    p = row["p"] if np.isnan(row["p_adjusted"]) else row["p_adjusted"]
    there = size >= smallest and p < rule.alpha
    ruled_out = largest < smallest
    if row["expects"] == "not_greater":
        there, ruled_out = ruled_out, there
    return "supported" if there else "contradicted" if ruled_out else "undecided"


def combine(verdicts: Collection[str], every: bool = False) -> str:
    """Give a claim's verdict: supported by one contrast and contradicted by none, or the reverse.

    :param verdicts: of its primary contrasts
    :param every: if True, all must support the claim, and one is enough to contradict it
    """
    supported = "supported" in verdicts
    contradicted = "contradicted" in verdicts
    if every:
        supported = set(verdicts) == {"supported"}
    if supported != contradicted:
        return "supported" if supported else "contradicted"
    return "undecided" if set(verdicts) - {"not tested"} else "not tested"


def summarize(table: pd.DataFrame, claims: Claims, networks: Sequence[str]) -> pd.DataFrame:
    """Compare every network with the first of a study, on each task, in every measure and regime.

    Networks are averaged over orders of tasks. :data:`WHOLE` is the mean over tasks. ``p_holm`` is
    corrected over the networks for that mean, and over networks and tasks for the others, within a
    regime and measure.

    :param networks: of the study, in its order
    :return: a table with the columns ``regime``, ``measure``, ``architecture``, ``task``,
        ``seeds``, ``mean``, ``low``, ``high``, ``iqm``, ``difference``, ``difference_low``,
        ``difference_high``, ``seeds_compared``, ``p``, ``p_holm`` and ``verdict``
    """
    done = set(table.dropna(subset="value")["architecture"])
    networks = [name for name in networks if name in done]
    found = []
    for measure, regime in itertools.product(MEASURES, table["regime"].unique()):
        rows = table[(table["measure"] == measure) & (table["regime"] == regime)]
        tasks = {*rows["task"]} - {WHOLE}
        for over in ("tasks", None) if len(tasks) > 1 else (None,):
            found += [
                {"regime": regime, "measure": measure, "architecture": name, **row}
                for name in networks
                for row in _beside_first(rows, measure, [name, networks[0]], claims, over)
            ]
    summary = pd.DataFrame(found)
    if found:
        families = summary.groupby(["measure", "regime", summary["task"] == WHOLE])
        summary["p_holm"] = families["p"].transform(_corrected)
        compared = summary["seeds_compared"]
        shown = (compared >= claims.rule.min_seeds) & (summary["p_holm"] < claims.rule.alpha)
        cases = [shown & (summary["difference"] > 0), shown, compared > 0]
        summary["verdict"] = np.select(cases, ["higher", "lower", "undecided"], "")
    return summary


def _beside_first(
    rows: pd.DataFrame, measure: str, networks: list[str], claims: Claims, over: str | None
) -> Iterator[dict[str, Any]]:
    """Give a network's mean on each task, or over all, and its difference from the first's."""
    groups = [Selector(architecture=name) for name in networks]
    pairs = compare(rows, measure, groups, claims, over)
    for task, values_S1 in compare(rows, measure, groups[:1], claims, over).items():
        if not len(values_S1):
            continue
        low, high = t_interval(values_S1[:, 0], claims.rule.interval)
        estimate = Estimate()
        if networks[0] != networks[1] and task in pairs:
            estimate = welch(pairs[task], np.array([1.0, -1.0]), claims.rule)
        yield {
            "task": task,
            "seeds": len(values_S1),
            "mean": values_S1.mean(),
            "low": low,
            "high": high,
            "iqm": stats.trim_mean(values_S1[:, 0], 0.25),
            **dict(zip(_COMPARED, estimate, strict=True)),
        }
