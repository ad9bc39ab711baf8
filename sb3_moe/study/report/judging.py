"""Differences between networks, and claims, judged on the table of results.

Shapes: S seeds, G groups of runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sb3_moe.measures.statistics import holm, iqm
from sb3_moe.study.claims import Claims, Contrast, Number, Rule, Selector
from sb3_moe.study.report.measures import MEASURES, WHOLE, Array


class Estimate(NamedTuple):
    """A difference over seeds: its mean, interval and tests.

    ``p_greater``, ``p_different``: of a t test that the mean is at most 0, or is 0. ``seeds``: of
    the smallest group.
    """

    mean: float
    low: float
    high: float
    p_greater: float
    p_different: float
    seeds: int


def t_interval(values: Array, coverage: float = 0.95) -> tuple[Any, Any]:
    """Give Student's interval of the mean over seeds; NaN for fewer than two.

    :param values: (S, ...)
    """
    count, mean = len(values), np.mean(values, axis=0)
    deviation = np.std(values, axis=0, ddof=1) if count > 1 else np.nan
    half = stats.t.ppf(0.5 + coverage / 2, count - 1) * deviation / np.sqrt(count)
    return mean - half, mean + half


def welch(values: Array, signs: Array, coverage: float = 0.95, paired: bool = False) -> Estimate:
    """Estimate a sum of groups by Welch's t test; of one group it is Student's.

    :param values: (S, G), NaN where a group lacks a seed
    :param signs: 1 for a group that is added, -1 for one that is subtracted, (G,)
    :param coverage: of the interval
    :param paired: take the sum seed by seed, as one group
    """
    if paired:
        values, signs = (values @ signs)[:, None], np.ones(1)
    counts = np.isfinite(values).sum(axis=0)
    if not counts.all():
        return Estimate(np.nan, np.nan, np.nan, np.nan, np.nan, 0)
    fewest, mean = int(counts.min()), float(signs @ np.nanmean(values, axis=0))
    if fewest < 2:
        return Estimate(mean, np.nan, np.nan, 1.0, 1.0, fewest)
    squares = np.nanvar(values, axis=0, ddof=1) / counts
    error = float(np.sqrt(squares.sum()))
    if error == 0:  # no spread: the t statistic is not defined
        return Estimate(mean, mean, mean, float(mean <= 0), float(mean == 0), fewest)
    freedom = squares.sum() ** 2 / (np.square(squares) / (counts - 1)).sum()
    half = float(stats.t.ppf(0.5 + coverage / 2, freedom)) * error
    greater = float(stats.t.sf(mean / error, freedom))
    different = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Estimate(mean, mean - half, mean + half, greater, different, fewest)


def values_of_groups(
    table: pd.DataFrame, groups: Sequence[Selector], paired: bool = True
) -> pd.DataFrame:
    """Give each group's value for every seed and task, as (task, seed) by group.

    Each group is averaged over its regimes and orders of tasks; while some are missing, over those
    that the groups share, lest the difference between these pass for theirs.

    :param table: the rows of one measure
    :param paired: only seeds that all groups have; False: NaN for a group that lacks a seed, or a
        regime or order that its other seeds have
    """
    wide = [_by_setting(table, group) for group in groups]
    if any(each.empty for each in wide):
        return pd.DataFrame()
    index, settings = wide[0].index, wide[0].columns
    for each in wide[1:]:
        index, settings = index.union(each.index), settings.union(each.columns)
    wide = [each.reindex(index=index, columns=settings) for each in wide]
    known = [each.notna() for each in wide]
    if not paired:
        known = [each.groupby(level="task").transform("any") for each in known]
    means = []
    for group, values, kept in zip(groups, wide, known, strict=True):
        shared = kept.to_numpy(copy=True)
        # An order that a claim names is compared whether or not the other groups have it.
        for other, theirs in zip(groups, known, strict=True) if not group.order else ():
            regimes = settings.get_level_values("regime")
            applies = [other.regime in (None, regime) for regime in regimes]
            if not other.order:
                shared &= theirs.to_numpy() | ~np.array(applies)
        total = np.where(shared, values.to_numpy(), 0.0).sum(axis=1)
        count = shared.sum(axis=1)
        means.append(np.where(count, total, np.nan) / np.maximum(count, 1))
    return pd.DataFrame(np.transpose(means), index=index).dropna(how="any" if paired else "all")


def _by_setting(table: pd.DataFrame, group: Selector) -> pd.DataFrame:
    """Give a group's values as (task, seed) by (regime, order)."""
    rows = _selected(table[table["value"].notna()], group)
    keys = ["task", "seed", "regime", "order"]
    return rows.set_index(keys)["value"].unstack(["regime", "order"])


def _selected(table: pd.DataFrame, group: Selector) -> pd.DataFrame:
    """Give the rows of a group of runs."""
    mine = table["architecture"] == group.architecture
    if group.regime:
        mine &= table["regime"] == group.regime
    if group.order:
        mine &= table["order"] == " ".join(group.order)
    return table[mine]


def _tasks(table: pd.DataFrame, contrast: Contrast) -> list[str]:
    """List the tasks for which a measure is defined in every group of a study, done or not."""
    if MEASURES[contrast.measure].unit == "success":  # defined where a task says it
        table = table[table.groupby("task")["value"].transform("count") > 0]
    groups = [set(_selected(table, group)["task"]) for group in contrast.groups]
    return sorted(set.intersection(*groups))


def compare(
    table: pd.DataFrame, contrast: Contrast, rule: Rule, units: Mapping[str, Number]
) -> dict[str, Array]:
    """Give the values (S, G) that a contrast compares, by task; none of seeds where it has none."""
    rows = table[(table["measure"] == contrast.measure) & table["step"].isna()]
    tasks = _tasks(rows, contrast)
    values = values_of_groups(rows, contrast.groups, rule.paired)
    if contrast.over == "tasks":
        of_returns = units if MEASURES[contrast.measure].unit == "return" else {}
        values, tasks = _over_tasks(values, tasks, of_returns, rule.paired), [WHOLE]
    nothing = np.zeros((0, len(contrast.groups)))
    return dict.fromkeys(tasks or [WHOLE], nothing) | _by_task(values)


def _over_tasks(
    values: pd.DataFrame, tasks: list[str], units: Mapping[str, Number], paired: bool
) -> pd.DataFrame:
    """Give seeds that have every task one value, the mean over tasks, as (task, seed) by group."""
    if values.empty:
        return values
    if units:
        values = values.div(pd.Series(units), axis=0, level="task")
    groups = [values[each].unstack("task").reindex(columns=tasks) for each in values]
    means = pd.concat([each.mean(axis=1, skipna=False) for each in groups], axis=1)
    means = means.dropna(how="any" if paired else "all")
    return pd.concat({WHOLE: means}, names=["task"])


def _by_task(values: pd.DataFrame) -> dict[str, Array]:
    """Give values (S, G) by task, where every group has any."""
    if values.empty:
        return {}
    found = {str(task): rows.to_numpy() for task, rows in values.groupby(level="task")}
    return {task: each for task, each in found.items() if np.isfinite(each).any(axis=0).all()}


def judge(claims: Claims, table: pd.DataFrame) -> pd.DataFrame:
    """Test every claim on the results that there are.

    :return: a row for each contrast and task, with its ``verdict`` and that of its claim; what has
        no values is ``"not tested"``. ``p_adjusted`` is NaN where no correction is needed
    """
    rows = [
        {"claim": claim.name, "text": claim.text, **_contrast_row(contrast, task, values, claims)}
        for claim in claims.claims
        for contrast in claim.contrasts
        for task, values in compare(table, contrast, claims.rule, claims.units).items()
    ]
    strict = {claim.name for claim in claims.claims if claim.needs == "all"}
    tested = [row for row in rows if row["primary"] and row["claim"] not in strict and row["seeds"]]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_adjusted"] = p
    for row in rows:
        row["verdict"] = decide(row, claims.rule)
    for row in rows:
        verdicts = {r["verdict"] for r in rows if r["claim"] == row["claim"] and r["primary"]}
        row["claim_verdict"] = combine(verdicts, every=row["claim"] in strict)
    return pd.DataFrame(rows)


def _contrast_row(contrast: Contrast, task: str, values: Array, claims: Claims) -> dict[str, Any]:
    """Estimate a contrast on one task; not yet judged."""
    found = welch(values, contrast.signs, claims.rule.interval, claims.rule.paired)
    return {
        "contrast": str(contrast),
        "measure": contrast.measure,
        "task": task,
        "primary": contrast.primary,
        "expects": contrast.expects,
        "smallest_effect": contrast.smallest_effect,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "seeds": found.seeds,
        "p": found.p_different if contrast.expects == "different" else found.p_greater,
        "p_adjusted": np.nan,
    }


def decide(row: Mapping[str, Any], rule: Rule) -> str:
    """Apply the rule to a contrast on one task.

    ``"greater"`` is supported when the difference is at least the smallest effect that matters and
    its adjusted test is significant, and contradicted when the interval rules that effect out.
    ``"not_greater"`` is the same with the two swapped. ``"different"`` looks at both sides.
    """
    if not row["seeds"]:
        return "not tested"
    if row["seeds"] < rule.min_seeds:
        return "undecided"
    size, largest, smallest = row["difference"], row["high"], row["smallest_effect"]
    if row["expects"] == "different":
        size, largest = abs(size), max(-row["low"], largest)
    p = row["p"] if np.isnan(row["p_adjusted"]) else row["p_adjusted"]
    there, ruled_out = size >= smallest and p < rule.alpha, largest < smallest
    if row["expects"] == "not_greater":
        there, ruled_out = ruled_out, there
    return "supported" if there else "contradicted" if ruled_out else "undecided"


def combine(verdicts: Collection[str], every: bool = False) -> str:
    """Give a claim's verdict: supported by one contrast and contradicted by none, or the reverse.

    :param verdicts: of its primary contrasts
    :param every: supported only by all, and contradicted by any
    """
    supported, contradicted = "supported" in verdicts, "contradicted" in verdicts
    if every:
        supported = set(verdicts) == {"supported"}
    if supported != contradicted:
        return "supported" if supported else "contradicted"
    return "undecided" if set(verdicts) - {"not tested"} else "not tested"


def summarize(table: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """Compare every network with the first of a study, on each task, in every measure and regime.

    Networks are averaged over orders of tasks. :data:`WHOLE` is the mean over tasks. ``p_holm`` is
    corrected over the networks for that mean, and over networks and tasks for the others, within a
    regime and measure.

    :return: in the columns ``regime``, ``measure``, ``architecture``, ``task``, ``seeds``,
        ``mean``, ``low``, ``high``, ``iqm``, ``difference``, ``difference_low``,
        ``difference_high``, ``seeds_compared``, ``p``, ``p_holm`` and ``verdict``
    """
    found: list[dict[str, Any]] = []
    there = table[table["step"].isna() & table["value"].notna()]
    done = set(there["architecture"])
    networks = [name for name in table["architecture"].unique() if name in done]
    for name in MEASURES:
        of_measure = there[there["measure"] == name]
        for regime, rows in of_measure.groupby("regime", sort=False):
            summary = [*_summary_rows(rows, regime, name, networks, claims)]
            for whole in (True, False):
                _correct([row for row in summary if (row["task"] == WHOLE) == whole], claims.rule)
            found += summary
    return pd.DataFrame(found)


def _summary_rows(
    rows: pd.DataFrame, regime: Any, measure: str, networks: Sequence[str], claims: Claims
) -> Iterator[dict[str, Any]]:
    first, *others = (Selector(architecture=name, regime=regime) for name in networks)
    tasks, rule = sorted(set(rows["task"])), claims.rule
    units = claims.units if MEASURES[measure].unit == "return" else {}

    def values(groups: Sequence[Selector], paired: bool) -> dict[str, Array]:
        each = values_of_groups(rows, groups, paired)
        means = _by_task(_over_tasks(each, tasks, units, paired)) if len(tasks) > 1 else {}
        return means | _by_task(each)

    for group in (first, *others):
        compared = values([group, first], rule.paired) if group in others else {}
        for task, values_S1 in values([group], False).items():
            low, high = t_interval(values_S1[:, 0], rule.interval)
            pairs = compared.get(task, np.zeros((0, 2)))
            found = welch(pairs, np.array([1.0, -1.0]), rule.interval, rule.paired)
            yield {
                "regime": regime,
                "measure": measure,
                "architecture": group.architecture,
                "task": task,
                "seeds": len(values_S1),
                "mean": values_S1.mean(),
                "low": low,
                "high": high,
                "iqm": iqm(values_S1),
                "difference": found.mean,
                "difference_low": found.low,
                "difference_high": found.high,
                "seeds_compared": found.seeds,
                "p": found.p_different,
                "p_holm": np.nan,
                "verdict": "",
            }


def _correct(rows: Sequence[dict[str, Any]], rule: Rule) -> None:
    """Correct the tests of one family, and add which differences they show."""
    tested = [row for row in rows if row["seeds_compared"]]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        shown = p < rule.alpha and row["seeds_compared"] >= rule.min_seeds
        side = "higher" if row["difference"] > 0 else "lower"
        row |= {"p_holm": p, "verdict": side if shown else "undecided"}
