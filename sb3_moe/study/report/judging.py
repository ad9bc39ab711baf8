"""Claims, held against what runs came to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np

from sb3_moe.measures import bootstrap_interval, holm
from sb3_moe.study.report.claims import Claim, Claims, Contrast
from sb3_moe.study.report.measures import measure, shown
from sb3_moe.study.report.references import References
from sb3_moe.study.report.runs import Array, Run
from sb3_moe.study.report.verdict import (
    Estimate,
    Rule,
    Verdict,
    combine,
    decide,
    t_interval,
    t_tests,
    welch,
)
from sb3_moe.study.spec.architectures import titles
from sb3_moe.study.spec.config import CellConfig

_UNJUDGED: tuple[Verdict, Verdict] = ("undecided", "undecided")


class Row(NamedTuple):
    """One line of the report: a contrast on one game.

    ``verdict_by_t`` is what the rule says with Student's interval in place of the bootstrap.
    """

    contrast: Contrast
    game: str
    estimate: Estimate
    p_adjusted: float
    verdict: Verdict
    verdict_by_t: Verdict

    def is_corrected(self, claim: Claim) -> bool:
        """Say whether Holm's correction is over this contrast of a claim too."""
        return self.contrast.primary and claim.needs == "any"


class Finding(NamedTuple):
    """A claim and what came out; ``called`` are the titles of the study's networks."""

    claim: Claim
    rows: list[Row]
    verdict: Verdict
    verdict_by_t: Verdict
    called: Mapping[str, str]

    @property
    def untested(self) -> list[Contrast]:
        """Primary contrasts that runs have no values for."""
        return [
            contrast
            for contrast in self.claim.contrasts
            if contrast.primary and not any(row.contrast is contrast for row in self.rows)
        ]

    def comparison(self, contrast: Contrast) -> str:
        """Say what a contrast compares."""
        return contrast.label(self.called)

    def label(self, row: Row) -> str:
        """Tell one of the claim's primary rows from the others.

        :return: its task, after the comparison and the measure where there are several
        """
        primary = [contrast for contrast in self.claim.contrasts if contrast.primary]
        words = [self.comparison(row.contrast)] if len(primary) > 1 else []
        if len({contrast.measure for contrast in primary}) > 1:
            words.append(row.contrast.measure)
        return ", ".join([*words, shown(row.game)])


def primary_rows(findings: Sequence[Finding]) -> dict[str, list[tuple[str, Row]]]:
    """List what verdicts rest on, each with a label, by measure: each has a unit of its own."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for finding in findings:
        for row in finding.rows:
            if row.contrast.primary:
                label = f"{finding.claim.name}: {finding.label(row)}"
                found.setdefault(row.contrast.measure, []).append((label, row))
    return found


def judge_claims(
    claims: Claims,
    runs: Sequence[Run],
    references: References,
    cells: Sequence[CellConfig] | None = None,
) -> list[Finding]:
    """Test every claim on the runs that there are.

    :param claims: what is claimed, and the rule
    :param runs: finished runs
    :param references: what returns are compared with
    :param cells: of the study, see :meth:`Contrast.groups`
    """
    rows = [
        (claim, row)
        for claim in claims.claims
        for contrast in claim.contrasts
        for row in _estimates(contrast, runs, references, claims.rule, cells)
    ]
    primary = [index for index, (claim, row) in enumerate(rows) if row.is_corrected(claim)]
    p_values = [rows[i][1].estimate.p_value(rows[i][1].contrast.expects) for i in primary]
    adjusted = dict(zip(primary, holm(p_values), strict=True))
    judged = [
        (claim, _judge(row, adjusted.get(index), claims.rule))
        for index, (claim, row) in enumerate(rows)
    ]
    called, findings = _titles(claims, runs, cells), []
    for claim in claims.claims:
        own = [row for each, row in judged if each is claim]
        verdicts = _verdicts(claim, own, runs, references, cells)
        findings.append(Finding(claim, own, *verdicts, called))
    return findings


def _titles(
    claims: Claims, runs: Sequence[Run], cells: Sequence[CellConfig] | None
) -> dict[str, str]:
    """Name the networks of a study, and those that only its claims have."""
    contrasts = [contrast for claim in claims.claims for contrast in claim.contrasts]
    selectors = [selector for each in contrasts for selector in each.plus + each.minus]
    own = [run.cell for run in runs] if cells is None else cells
    return titles([cell.architecture.name for cell in own] + [s.architecture for s in selectors])


def _measured(
    contrast: Contrast, runs: Sequence[Run], references: References
) -> list[tuple[Run, dict[str, float]]]:
    return [(run, measure(contrast.measure, run, references)) for run in runs]


def _estimates(
    contrast: Contrast,
    runs: Sequence[Run],
    references: References,
    rule: Rule,
    cells: Sequence[CellConfig] | None,
) -> list[Row]:
    """Estimate a contrast on each game of which all groups have runs; not yet judged."""
    measured = _measured(contrast, runs, references)
    by_game: dict[str, list[Array]] = defaultdict(list)
    for (_, game), values in contrast.groups(measured, cells, rule.paired).items():
        by_game[game].append(values)
    return [
        Row(contrast, game, estimate(np.array(every), contrast.signs, rule), 1.0, *_UNJUDGED)
        for game, every in by_game.items()
        if np.isfinite(every).any(axis=0).all()
    ]


def estimate(values: Array, signs: Array, rule: Rule) -> Estimate:
    """Summarise a difference between groups; a single seed has no interval.

    :param values: of every seed and group, (seeds, groups), NaN where a group that isn't paired
        lacks a seed
    :param signs: see :attr:`Contrast.signs`
    """
    if not rule.paired:
        return welch(values, signs, rule.interval)
    differences = values @ signs
    mean = float(np.mean(differences))
    low, high = bootstrap_interval(differences, confidence=rule.interval, seed=0)
    student = t_interval(differences, rule.interval)
    return Estimate(mean, low, high, *t_tests(differences), len(differences), *student)


def _judge(row: Row, adjusted: float | None, rule: Rule) -> Row:
    """Apply the rule; what is not primary keeps its own p-value."""
    contrast = row.contrast
    p = row.estimate.p_value(contrast.expects) if adjusted is None else adjusted
    verdict, by_t = (
        decide(estimate, p, contrast.expects, contrast.smallest_effect, rule)
        for estimate in (row.estimate, row.estimate.by_t())
    )
    return row._replace(p_adjusted=p, verdict=verdict, verdict_by_t=by_t)


def _verdicts(
    claim: Claim,
    rows: list[Row],
    runs: Sequence[Run],
    references: References,
    cells: Sequence[CellConfig] | None,
) -> tuple[Verdict, Verdict]:
    """Give a claim its verdict, and that by t intervals.

    It has none where it needs every row and one is missing.
    """
    primary = [row for row in rows if row.contrast.primary]
    every = claim.needs == "all"
    for contrast in claim.contrasts if every else ():
        wanted = contrast.games(_measured(contrast, runs, references), cells)
        found = {row.game for row in primary if row.contrast is contrast}
        if contrast.primary and (not found or wanted - found):
            return _contradicted_or_undecided(primary)
    verdict = combine([row.verdict for row in primary], every)
    return verdict, combine([row.verdict_by_t for row in primary], every)


def _contradicted_or_undecided(rows: Sequence[Row]) -> tuple[Verdict, Verdict]:
    """Judge a claim that lacks a row that it needs: one can still contradict it."""
    found = [[row.verdict for row in rows], [row.verdict_by_t for row in rows]]
    verdict, by_t = ("contradicted" if "contradicted" in each else "undecided" for each in found)
    return cast(tuple[Verdict, Verdict], (verdict, by_t))
