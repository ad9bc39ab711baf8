"""Differences between networks, and claims, judged on the table of results.

Shapes: S seeds, G groups of runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sb3_moe.measures.statistics import holm
from sb3_moe.study.claims import Claims, Contrast, Rule, Selector
from sb3_moe.study.measures import MEASURES, WHOLE, Array


class Estimate(NamedTuple):
    """A sum of groups over seeds: its interval, and a t test of its being at most 0, or 0.

    ``seeds``: of the smallest group.
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
    mean, count = np.mean(values, axis=0), len(values)
    error = stats.sem(values, axis=0) if count > 1 else np.nan
    half = stats.t.ppf(0.5 + coverage / 2, count - 1) * error
    return mean - half, mean + half


def welch(values: Array, signs: Array, rule: Rule, alternative: str = "two-sided") -> Estimate:
    """Estimate a sum of groups by Welch's t test; of one group it is Student's.

    :param values: (S, G), NaN where a group lacks a seed
    :param signs: 1 for a group that is added, -1 for one that is subtracted, (G,)
    :param rule: where it is paired, the sum is taken seed by seed, as one group
    :param alternative: ``"greater"`` or ``"two-sided"``
    """
    if rule.paired:
        values, signs = (values @ signs)[:, None], np.ones(1)
    counts = np.isfinite(values).sum(axis=0)
    if not counts.all():
        return Estimate()
    fewest, mean = int(counts.min()), float(signs @ np.nanmean(values, axis=0))
    if fewest < 2:
        return Estimate(mean, p=1.0, seeds=fewest)
    sides, size = (1, mean) if alternative == "greater" else (2, abs(mean))
    squares = np.nanvar(values, axis=0, ddof=1) / counts
    error = float(np.sqrt(squares.sum()))
    if error == 0:  # no spread: the t statistic is not defined
        return Estimate(mean, mean, mean, float(size <= 0), fewest)
    freedom = squares.sum() ** 2 / (np.square(squares) / (counts - 1)).sum()
    half = float(stats.t.ppf(0.5 + rule.interval / 2, freedom)) * error
    p = sides * float(stats.t.sf(size / error, freedom))
    return Estimate(mean, mean - half, mean + half, p, fewest)


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
    keys = ["task", "seed", "regime", "order"]
    there = table[table["value"].notna()]
    rows = [_selected(there, group).set_index(keys)["value"] for group in groups]
    if any(each.empty for each in rows):
        return pd.DataFrame()
    wide = pd.concat(rows, axis=1, keys=range(len(groups))).unstack(["regime", "order"])
    values = [wide[k].reindex(columns=wide[0].columns) for k in range(len(groups))]
    known = [each.notna() for each in values]
    if not paired:
        known = [each.groupby(level="task").transform("any") for each in known]
    means = []
    for group, mine, kept in zip(groups, values, known, strict=True):
        shared = kept.copy()
        # An order that a claim names is compared whether or not the other groups have it.
        for other, theirs in zip(groups, known, strict=True) if not group.order else ():
            regimes = theirs.columns.get_level_values("regime")
            applies = np.array([other.regime in (None, regime) for regime in regimes])
            if not other.order:
                shared &= theirs | ~applies
        total, count = mine.where(shared, 0.0).sum(axis=1, skipna=False), shared.sum(axis=1)
        means.append(total.where(count > 0) / count.clip(lower=1))
    return pd.concat(means, axis=1).dropna(how="any" if paired else "all")


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


def compare(table: pd.DataFrame, contrast: Contrast, claims: Claims) -> dict[str, Array]:
    """Give the values (S, G) that a contrast compares, by task; none of seeds where it has none."""
    rows = table[(table["measure"] == contrast.measure) & table["step"].isna()]
    tasks = _tasks(rows, contrast)
    paired = claims.rule.paired
    values = values_of_groups(rows, contrast.groups, paired)
    if contrast.over == "tasks":
        values, tasks = _over_tasks(values, tasks, contrast.measure, claims, paired), [WHOLE]
    nothing = np.zeros((0, len(contrast.groups)))
    return dict.fromkeys(tasks or [WHOLE], nothing) | _by_task(values)


def _over_tasks(
    values: pd.DataFrame, tasks: list[str], measure: str, claims: Claims, paired: bool
) -> pd.DataFrame:
    """Give seeds that have every task one value, the mean over tasks, as (task, seed) by group."""
    if values.empty:
        return values
    if claims.units and MEASURES[measure].unit == "return":
        values = values.div(pd.Series(dict(claims.units)), axis=0, level="task")
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


def missing(claims: Claims, planned: pd.DataFrame) -> list[str]:
    """Say, a line each, what of the claims a study will have no value of: it may be misspelled.

    :param planned: see :func:`~sb3_moe.study.results.planned_table`
    """
    lines = [
        f"claim {claim.name!r}: no run gives `{contrast.measure}` of {task} for {contrast}"
        for claim in claims.claims
        for contrast in claim.contrasts
        for task, values in compare(planned, contrast, claims).items()
        if not len(values)
    ]
    return list(dict.fromkeys(lines))


def judge(claims: Claims, table: pd.DataFrame) -> pd.DataFrame:
    """Test every claim on the results that there are.

    :return: a row for each contrast and task, with its ``verdict`` and that of its claim; what has
        no values is ``"not tested"``. ``p_adjusted`` is NaN where no correction is needed
    """
    found: list[dict[str, Any]] = []
    for claim in claims.claims:
        rows: list[dict[str, Any]] = [
            {
                "claim": claim.name,
                "text": claim.text,
                "needs": claim.needs,
                "contrast": str(contrast),
                "measure": contrast.measure,
                "task": task,
                "primary": contrast.primary,
                "expects": contrast.expects,
                "smallest_effect": contrast.smallest_effect,
                **welch(values, contrast.signs, claims.rule, contrast.alternative)._asdict(),
                "p_adjusted": np.nan,
            }
            for contrast in claim.contrasts
            for task, values in compare(table, contrast, claims).items()
        ]
        found += rows
    corrected = [row for row in found if row["primary"] and row["needs"] == "any"]
    _correct(corrected, "p_adjusted")
    for row in found:
        row["verdict"] = decide(row, claims.rule)
    verdicts = pd.DataFrame(found)
    if found:
        primary = verdicts[verdicts["primary"]].groupby("claim")["verdict"].agg(set)
        every = verdicts.groupby("claim")["needs"].first() == "all"
        whole = {name: combine(primary.get(name, set()), every[name]) for name in every.index}
        verdicts["claim_verdict"] = verdicts["claim"].map(whole)
    return verdicts


def _correct(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Add p by Holm's correction to the rows of one family that were tested."""
    tested = [row for row in rows if not np.isnan(row["p"])]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row[name] = p


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
    there = table[table["step"].isna() & table["value"].notna()]
    done = set(there["architecture"])
    networks = [name for name in table["architecture"].unique() if name in done]
    found: list[dict[str, Any]] = []
    for measure in MEASURES:
        of_measure = there[there["measure"] == measure]
        for regime, rows in of_measure.groupby("regime", sort=False):
            groups = [Selector(architecture=name, regime=regime) for name in networks]
            summary = [
                {"regime": regime, "measure": measure, "architecture": group.architecture, **row}
                for group in groups
                for row in _compared(rows, group, groups[0], measure, claims)
            ]
            for whole in (True, False):
                _correct([row for row in summary if (row["task"] == WHOLE) == whole], "p_holm")
            found += summary
    for row in found:
        enough = row["seeds_compared"] >= claims.rule.min_seeds
        shown = "higher" if row["difference"] > 0 else "lower"
        undecided = "undecided" if row["seeds_compared"] else ""
        row["verdict"] = shown if enough and row["p_holm"] < claims.rule.alpha else undecided
    return pd.DataFrame(found)


def _compared(
    rows: pd.DataFrame, group: Selector, first: Selector, measure: str, claims: Claims
) -> Iterator[dict[str, Any]]:
    """Give a network's mean on each task and over all, and its difference from the first one."""
    own = _with_mean(rows, [group], measure, claims, paired=False)
    pairs = {}
    if group != first:
        pairs = _with_mean(rows, [group, first], measure, claims, claims.rule.paired)
    for task, values_S1 in own.items():
        low, high = t_interval(values_S1[:, 0], claims.rule.interval)
        difference = Estimate()
        if task in pairs:
            difference = welch(pairs[task], np.array([1.0, -1.0]), claims.rule)
        yield {
            "task": task,
            "seeds": len(values_S1),
            "mean": values_S1.mean(),
            "low": low,
            "high": high,
            "iqm": stats.trim_mean(values_S1[:, 0], 0.25),
            "difference": difference.difference,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "seeds_compared": difference.seeds,
            "p": difference.p,
            "p_holm": np.nan,
        }


def _with_mean(
    rows: pd.DataFrame, groups: Sequence[Selector], measure: str, claims: Claims, paired: bool
) -> dict[str, Array]:
    """Give values (S, G) by task, the mean over tasks first where there are several."""
    tasks, values = sorted(set(rows["task"])), values_of_groups(rows, groups, paired)
    means = _over_tasks(values, tasks, measure, claims, paired) if len(tasks) > 1 else None
    return ({} if means is None else _by_task(means)) | _by_task(values)
