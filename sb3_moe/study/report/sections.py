"""The text of a report's page, section by section."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sb3_moe.plasticity.dormant import TAUS
from sb3_moe.study.report import tables
from sb3_moe.study.report.claims import Finding
from sb3_moe.study.report.measures import MEASURES, block_end, collapsed
from sb3_moe.study.report.page import Page, interval, number
from sb3_moe.study.report.results import Results
from sb3_moe.study.report.verdict import TESTS
from sb3_moe.study.spec.architectures import meaning, title
from sb3_moe.study.spec.silences import silences

QUESTION = "Does a mixture of experts help an agent whose tasks change?"


def build_page(
    results: Results, rows: Mapping[str, tables.Rows], pictures: Mapping[str, bytes]
) -> Page:
    """Write the page.

    :param results: what it reports
    :param rows: its tables, by name
    :param pictures: as PNG, by name
    """
    page = Page(QUESTION)
    _introduction(page, results)
    _claims(page, results, pictures)
    _returns(page, rows["summary"], results.random, pictures)
    _insides(page, pictures)
    _limits(page, results)
    _silences(page, results)
    _reproduce(page, results)
    return page


def _introduction(page: Page, results: Results) -> None:
    page.text(
        "An agent learns to play several small Atari-like games (MinAtar) with one neural network. "
        "Either the games are interleaved, so that it plays all of them at the same time, or it "
        "plays one for a long while, then the next. Such changes can make networks lose their "
        "ability to learn. A mixture of experts splits the network into several parts (experts), "
        "and a router decides how much each counts for the situation at hand. The paper "
        "“Mixture of Experts in a Mixture of RL settings” (Willi, Obando-Ceron and others, 2024) "
        "reports that this helps. Its code is not public; this page is an independent test of "
        "what it says, with PPO of Stable-Baselines3.",
        results.extent,
        "In what follows, MTRL means that the games are interleaved, CRL that they come one after "
        "the other. The networks:",
    )
    page.items([f"{title(a.name)}: {meaning(a)}" for a in results.study.architectures])


def _claims(page: Page, results: Results, pictures: Mapping[str, bytes]) -> None:
    if not results.findings:
        return
    page.section("The claims, and what came out")
    rule = results.claims.rule
    page.text(
        "Each claim was written down before the runs, with the runs that are compared, the measure "
        "and the smallest difference that would matter. Runs with the same seed are compared with "
        f"each other. Intervals are {rule.interval:.0%} bootstrap intervals over seeds. A claim is "
        "supported where the difference is at least the smallest that matters and a paired t test, "
        f"corrected for the number of primary comparisons (Holm), is below {rule.alpha}; it is "
        "contradicted where the interval rules that difference out; otherwise it is undecided, and "
        f"always so with fewer than {rule.min_seeds} seeds. A claim of “no better” is supported "
        "where the interval lies below the smallest difference that matters, and contradicted "
        f"where the difference is that large and significant. {TESTS} Over several games a claim "
        "is supported if it is on one of them and contradicted on none, and contradicted likewise.",
        "Bootstrap intervals of few seeds are too narrow. The last column says what the same rule "
        "gives with Student's t intervals: a verdict that changes there is a weak one.",
    )
    page.table(
        [_claim_row(finding) for finding in results.findings],
        {"text": "Claim", "verdict": "Verdict", "why": "Because", "by_t": "With t intervals"},
    )
    if "differences" in pictures:
        page.picture(
            pictures["differences"],
            "Every primary comparison, each in the unit of its measure: the mean difference over "
            "seeds and its bootstrap interval. Grey is too small to matter. To the right is what "
            "the claim says, except that for “routing” (no better) it speaks against the claim, "
            "and that for “order” either side counts.",
        )
    _comparisons(page, results, primary=True)
    page.text(
        "Further comparisons, judged by the same rule without the correction. No verdict rests on "
        "them; they show which control explains a difference, if one does."
    )
    _comparisons(page, results, primary=False)
    used = {row.contrast.measure for f in results.findings for row in f.rows}
    page.items([f"{name}: {meaning}" for name, meaning in MEASURES.items() if name in used])


def _comparisons(page: Page, results: Results, primary: bool) -> None:
    """List the contrasts, game by game."""
    rows = [row for row in tables.verdicts(results.findings) if row["primary"] == primary]
    page.table(
        [{**row, "difference": interval(*(row[k] for k in _ESTIMATE))} for row in rows],
        {
            "claim": "Claim",
            "contrast": "Comparison",
            "measure": "Measure",
            "game": "Game",
            "difference": "Difference",
            "smallest_effect": "Matters from",
            **({"p_adjusted": "p (Holm)"} if primary else {"p": "p"}),
            "seeds": "Seeds",
            "verdict": "Verdict",
            "verdict_by_t": "With t intervals",
        },
    )


_ESTIMATE = ("difference", "low", "high")


def _claim_row(finding: Finding) -> dict[str, Any]:
    rows = [row for row in finding.rows if row.contrast.primary]
    why = "; ".join(
        f"{row.game}: {interval(row.estimate.mean, row.estimate.low, row.estimate.high)}"
        for row in rows
    )
    return {
        "text": finding.claim.text,
        "verdict": finding.verdict if rows else "not tested in this study",
        "why": why or "the runs that it compares are not part of this study, or not done",
        "by_t": finding.verdict_by_t if rows else "-",
    }


def _returns(
    page: Page,
    summary: tables.Rows,
    random: Mapping[str, float],
    pictures: Mapping[str, bytes],
) -> None:
    page.section("What the agents reached")
    page.text(
        "Return: the mean over the evaluations in the last tenth of the game's training, with an "
        "interval over seeds where there are several. “At the end” is the same "
        "game once all training is over: what is left of it after other games were trained. "
        "“Times random” compares with an agent that acts at random: how many times its return; "
        "a dash stands where that return is not above 0."
    )
    for setting, rows in tables.by_setting(summary).items():
        page.text(f"Games {setting}")
        page.table(rows, _headings(rows[0]))
    games = list(dict.fromkeys(row["game"] for row in summary))
    page.text("Random: " + ", ".join(f"{g} {number(random[g])}" for g in games) + ".")
    page.picture(
        pictures["learning_curves"],
        "Return of each game while training goes on: a row for each way to mix the games, a column "
        "for each game. Shading marks when the game was trained; the dotted line is the random "
        "policy; bands reach from the worst to the best seed.",
    )


def _headings(wide: Mapping[str, Any]) -> dict[str, str]:
    """Name the columns of a wide row, for the games that were trained there."""
    games = [name.removeprefix("return ") for name in wide if name.startswith("return ")]
    return (
        {"network": "Network"}
        | {f"return {game}": game for game in games}
        | {f"ratio {game}": f"{game} times random" for game in games}
        | {f"at_the_end {game}": f"{game} at the end" for game in games}
        | {"dormant": "Dormant neurons", "seeds": "Seeds"}
    )


def _insides(page: Page, pictures: Mapping[str, bytes]) -> None:
    page.section("Inside the networks")
    if "dormant_neurons" in pictures:
        page.picture(
            pictures["dormant_neurons"],
            "Dormant neurons: those whose activation is almost always far below their layer's mean "
            f"(tau-dormant with tau {TAUS[0]}, arXiv 2302.12902), pooled over each layer and "
            "averaged over layers, on observations of a random policy in equal parts from all "
            "games. Fewer means that more of the network is at work.",
        )
    else:
        page.text("No run here has measured dormant neurons.")
    if "expert_weights" in pictures:
        page.picture(
            pictures["expert_weights"],
            "How much each expert counts for each game at the end of training (rows sum to one), "
            "where the router is learned. Which expert comes first is chance, so each seed's are "
            "sorted by their weight for the first game, then averaged over seeds. Rows that differ "
            "mean that the router tells the games apart.",
        )


def _limits(page: Page, results: Results) -> None:
    """Say where a mixture did not help: what is measured below dense, and what stays open."""
    page.section("Where a mixture of experts did not help")
    lost = collapsed(results.runs, results.random)
    if lost:
        page.text(
            "Runs that ended a game's training below the random policy, which stay in all numbers:"
        )
        page.items(
            [f"{run.cell.name}, {game}: {number(block_end(run, game))}" for run, game in lost]
        )
    rows = [row for f in results.findings for row in f.rows if row.contrast.expects == "greater"]
    worse = [row for row in rows if row.estimate.high < row.contrast.smallest_effect]
    lines = [
        f"{row.contrast.label}, {row.contrast.measure}, {row.game}: "
        f"{interval(row.estimate.mean, row.estimate.low, row.estimate.high)}"
        for row in worse
    ]
    if lines:
        page.text(
            "Comparisons, of all the claims, whose interval rules out the smallest benefit that "
            "would matter:"
        )
        page.items(lines)
    elif rows:
        page.text("No comparison rules out a benefit that would matter; see the intervals above.")
    page.text(
        "Games of this size are far simpler than Atari, networks here have two layers of 64, and "
        "the intervals rest on few seeds. Nothing here speaks of larger networks or longer runs."
    )


def _silences(page: Page, results: Results) -> None:
    page.section("What we chose where the paper is silent")
    page.items(silences(results.study))


def _reproduce(page: Page, results: Results) -> None:
    page.section("To check this page")
    ran = results.provenance
    page.text("The command, the versions and the machine:")
    page.code(str(ran.get("command", "")))
    page.code(json.dumps({k: ran.get(k) for k in ("versions", "hardware")}, indent=2))
    page.text(
        "Beside this page are its pictures as PNG, its tables as CSV (measures.csv has, seed by "
        "seed, what the comparisons rest on), and scores.npz, the return of every episode. The "
        "values of PPO that all runs share:"
    )
    page.code(json.dumps(results.ppo, indent=2))
    page.text("The study's configuration:")
    page.code(json.dumps(results.study.to_dict(), indent=2))
