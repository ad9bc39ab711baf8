"""What the page and the README are made of: facts and numbers for the templates."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from sb3_moe.measures.plasticity import TAUS
from sb3_moe.plots.inside import colours_of_gates
from sb3_moe.plots.save import FORMATS
from sb3_moe.saving.files import embedded
from sb3_moe.study.report import tables
from sb3_moe.study.report.charts import charts
from sb3_moe.study.report.facts import facts
from sb3_moe.study.report.figures import expert_panels
from sb3_moe.study.report.folder import FILES, PICTURES
from sb3_moe.study.report.headline import UNTESTED
from sb3_moe.study.report.judging import Finding, Row, primary_rows
from sb3_moe.study.report.measures import MEASURES, block_end, collapsed, diverged, shown
from sb3_moe.study.report.page import interval, number
from sb3_moe.study.report.rendering import render, sentences
from sb3_moe.study.report.results import Results
from sb3_moe.study.report.runs import Run
from sb3_moe.study.report.script import policy, script
from sb3_moe.study.report.verdict import FEWEST_SEEDS
from sb3_moe.study.spec.grid import StudyConfig


def build_page(
    results: Results,
    rows: Mapping[str, tables.Rows],
    pictures: Collection[str],
    replays: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Write the page, as HTML.

    :param results: what it reports
    :param rows: its tables, by name
    :param pictures: names of those that lie beside it
    :param replays: addresses of networks at play, by their titles
    """
    context = {
        **said(results),
        **_claims(results.findings, rows["verdicts"]),
        **_limits(results),
        **_reproduce(results),
    }
    return render(
        "page.html.j2",
        **context,
        rule=results.claims.rule,
        units=results.claims.units,
        returns=_returns(rows["summary"]),
        random={game: results.random[game] for game in _games(rows["summary"])},
        files={
            name: meaning
            for name, meaning in FILES.items()
            if rows.get(name.removesuffix(".csv"), True)
        },
        pictures={name: text for name, text in PICTURES.items() if name in pictures},
        formats=FORMATS,
        replays=replays,
        differences={
            measure: _forest(rows) for measure, rows in primary_rows(results.findings).items()
        },
        **_experts(results.runs),
        data=embedded(charts(results.runs, results.references)),
        script=script(),
        policy=policy(),
        tau=_tau(results.study),
    )


def _experts(runs: Sequence[Run]) -> dict[str, Any]:
    """Give how much experts count for tasks, and what is true of all of those weights."""
    panels = expert_panels(runs)
    if not panels:
        return {"experts": []}
    low, high, _ = colours_of_gates(np.concatenate([p.weights_NE.ravel() for p in panels]))
    return {
        "experts": panels,
        "largest": high or 1.0,
        "signed": low < 0,
        # A little more than one, since they are rounded.
        "shares": low >= 0 and all(p.weights_NE.sum(axis=1).max() < 1.001 for p in panels),
    }


def _tau(study: StudyConfig) -> float:
    """Give the threshold of what is called dormant: the first of those that the file names."""
    named = (each.arguments for each in study.callbacks if each.name == "PlasticityCallback")
    return next((float(given["taus"][0]) for given in named if given.get("taus")), TAUS[0])


def said(results: Results) -> dict[str, Any]:
    """Give what the page and the README say alike."""
    study = facts(results.study)
    expected = {row.contrast.expects for finding in results.findings for row in finding.rows}
    context: dict[str, Any] = {
        "study": study,
        "expected": expected,
        **_seeds(results.runs),
        "done": len(results.runs) - results.interrupted,
        "interrupted": results.interrupted,
        "ended_early": results.ended_early,
        "failed": results.failed,
        "cells": len(results.study.cells()),
    }
    texts = {
        name: sentences(f"{name}.txt.j2", **context)
        for name in ("title", "introduction", "extent", "tests", "choices")
    }
    return {
        **context,
        "title": texts["title"][0],
        "introduction": texts["introduction"],
        "extent": texts["extent"][0],
        "tests": texts["tests"][0],
        "choices": [*texts["choices"], *study.about.notes],
    }


def _seeds(runs: Sequence[Run]) -> dict[str, int]:
    """Say how many seeds there are of each network in each setting, which may not all be done yet.

    :return: the most, the fewest, and the fewest that have an interval, if these are too few for
        it to say much, else 0
    """
    counts = sorted(map(len, tables.grouped(runs).values()))
    few = next((count for count in counts if 1 < count < FEWEST_SEEDS), 0)
    return {"seeds": counts[-1], "fewest": counts[0], "few": few}


def _claims(findings: Sequence[Finding], verdicts: tables.Rows) -> dict[str, Any]:
    """Give each claim with its verdict, and the comparisons behind it."""
    rows = [
        {
            **row,
            "game": shown(row["game"]),
            "difference": interval(row["difference"], row["low"], row["high"]),
        }
        for row in verdicts
    ]
    used = {row["measure"] for row in rows}
    return {
        "claims": [_claim_row(finding) for finding in findings],
        "primary": [row for row in rows if row["primary"]],
        "further": [row for row in rows if not row["primary"]],
        "reversed": _claims_that_expect("not_greater", rows),
        "either": _claims_that_expect("different", rows),
        "strict": [f"“{f.claim.name}”" for f in findings if f.claim.needs == "all"],
        "measures": [f"{name}: {each.meaning}" for name, each in MEASURES.items() if name in used],
    }


def _claims_that_expect(expects: str, rows: tables.Rows) -> list[str]:
    """Name the claims whose primary differences don't speak for them to the right.

    Where only some of a claim's do, these are named with it.
    """
    primary = [row for row in rows if row["primary"]]
    mixed = {row["claim"] for row in primary if row["expects"] != expects}
    found = (
        f"“{row['claim']}”"
        + (f" ({row['contrast']}, {row['measure']})" if row["claim"] in mixed else "")
        for row in primary
        if row["expects"] == expects
    )
    return list(dict.fromkeys(found))


_NOT_TESTED = (
    "the runs that it compares are not part of this study, not done, or without a value of the "
    "measure, as where a reference is no better than the random policy"
)


_NONE_PRIMARY = "none of its comparisons is primary, so that no verdict rests on any"


def _claim_row(finding: Finding) -> dict[str, Any]:
    rows = [row for row in finding.rows if row.contrast.primary]
    has_primary = any(contrast.primary for contrast in finding.claim.contrasts)
    why = [
        f"{finding.label(row)}: {interval(row.estimate.mean, row.estimate.low, row.estimate.high)}"
        for row in rows
    ]
    if rows:
        why += [f"{finding.comparison(c)}, {c.measure}: not tested" for c in finding.untested]
    return {
        "text": finding.claim.text,
        "verdict": finding.verdict if rows else UNTESTED,
        "why": "; ".join(why) or (_NOT_TESTED if has_primary else _NONE_PRIMARY),
        "by_t": finding.verdict_by_t if rows else "-",
    }


def _forest(rows: Sequence[tuple[str, Row]]) -> list[dict[str, Any]]:
    """Say where the marks of each difference in a measure are, in percent of the widest."""
    ends = [end for _, row in rows for span in _spans(row).values() for end in span]
    reach = 1.05 * max((abs(end) for end in ends if math.isfinite(end)), default=0.0) or 1.0
    return [
        {
            "label": label,
            "text": interval(row.estimate.mean, row.estimate.low, row.estimate.high),
            "marks": {
                name: (round(50 + 50 * low / reach, 2), round(50 * (high - low) / reach, 2))
                for name, (low, high) in _spans(row).items()
                if math.isfinite(low) and math.isfinite(high)
            },
        }
        for label, row in rows
    ]


def _spans(row: Row) -> dict[str, tuple[float, float]]:
    """Say from where to where each mark of a difference reaches."""
    found, small = row.estimate, row.contrast.smallest_effect
    return {
        "small": (-small, small),
        "origin": (0.0, 0.0),
        "bar": (found.low, found.high),
        "estimate": (found.mean, found.mean),
    }


def _returns(summary: tables.Rows) -> list[dict[str, Any]]:
    """Give a table for each setting."""
    return [
        {"name": name, "rows": rows, "columns": _columns(rows[0])}
        for name, rows in tables.by_setting(summary).items()
    ]


def _columns(wide: Mapping[str, Any]) -> dict[str, str]:
    """Name the columns of a wide row, for the games that were trained there."""
    games = [name.removeprefix("return ") for name in wide if name.startswith("return ")]
    return (
        {"network": "Network"}
        | {f"return {game}": game for game in games}
        | {f"ratio {game}": f"{game} times random" for game in games}
        | {f"at_the_end {game}": f"{game} at the end" for game in games}
        | {"dormant": "Dormant neurons", "seeds": "Seeds"}
    )


def _games(summary: tables.Rows) -> list[str]:
    return list(dict.fromkeys(row["game"] for row in summary))


def _limits(results: Results) -> dict[str, Any]:
    """Say what did not help: what is measured below another, or below random."""
    rows = [(f, r) for f in results.findings for r in f.rows if r.contrast.expects == "greater"]
    worse = [
        (finding, row)
        for finding, row in rows
        if row.estimate.high < row.contrast.smallest_effect
        # Of fewer an interval rules nothing out.
        and row.estimate.seeds >= results.claims.rule.min_seeds
    ]
    return {
        "failures": [f"{name}: {reason}" for name, reason in results.failed.items()],
        "diverged": [_divergence(*each) for each in diverged(results.runs)],
        "collapsed": [_collapse(*each) for each in collapsed(results.runs, results.random)],
        "compared": bool(rows),
        "ruled_out": [
            f"{finding.comparison(row.contrast)}, {row.contrast.measure}, {shown(row.game)}: "
            f"{interval(row.estimate.mean, row.estimate.low, row.estimate.high)}"
            for finding, row in worse
        ],
    }


def _collapse(run: Run, game: str) -> str:
    return f"{run.cell.name}, {game}: {number(block_end(run, game))}"


def _divergence(run: Run, game: str) -> str:
    is_number = np.isfinite(run.returns(game))
    last = "" if is_number[-1] else ", the last among them"
    return f"{run.cell.name}, {game}: {(~is_number).sum()} of {len(is_number)} returns{last}"


def _reproduce(results: Results) -> dict[str, Any]:
    """Give what it takes to check the page; the study's own words are on it already."""
    configuration = results.study.to_dict()
    del configuration["about"]
    return {
        "provenance": results.provenance,
        "other": results.other,
        "machines": [(json.dumps(each, indent=2), count) for each, count in results.machines],
        "arguments": json.dumps(results.arguments, indent=2),
        "configuration": json.dumps(configuration, indent=2),
    }
