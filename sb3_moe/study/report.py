"""The report of a study: one page, its pictures and its tables, from folders alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_moe.callbacks.record import write_npz
from sb3_moe.plasticity.dormant import TAUS
from sb3_moe.study import figures, tables
from sb3_moe.study.claims import Claims, Finding, judge_claims, load_claims
from sb3_moe.study.folder import atomic, read_json
from sb3_moe.study.grid import StudyConfig
from sb3_moe.study.headline import claims_table, returns_table
from sb3_moe.study.measures import MEASURES, References, Run
from sb3_moe.study.page import Page, interval, number, png_of
from sb3_moe.study.runner import Job, survey
from sb3_moe.study.silences import SILENCES

QUESTION = "Does a mixture of experts help an agent whose tasks change?"


@dataclass(frozen=True)
class Results:
    """All that a report is made of.

    :param study: what was asked for
    :param runs: the cells that are done
    :param random: the random policy's mean return on each game
    :param findings: what became of each claim
    :param claims: the claims and their rule
    :param provenance: versions, hardware and command
    """

    study: StudyConfig
    runs: list[Run]
    random: dict[str, float]
    findings: list[Finding]
    claims: Claims
    provenance: Mapping[str, Any]


def load_results(study: StudyConfig, root: Path, partial: bool = False) -> Results:
    """Read a study's folder.

    :param partial: take runs that are not done for what they have
    :raises ValueError: if no cell is done
    """
    wanted = ("done", "interrupted") if partial else ("done",)
    jobs = [job for job in survey(study.cells(), root) if job.state.status in wanted]
    runs = [_run(job) for job in jobs if (job.folder.path / "scores.npz").exists()]
    if not runs:
        raise ValueError(f"a report needs a cell that is done, {root} has none: run the study")
    returns = read_json(root / "random.json")
    random = {game: float(np.mean(values)) for game, values in returns.items()}
    claims = load_claims(study.claims) if study.claims else Claims()
    findings = judge_claims(claims, runs, References(runs, random))
    return Results(study, runs, random, findings, claims, read_json(root / "study.json"))


def _run(job: Job) -> Run:
    has = (job.folder.path / "diagnostics.npz").exists()
    return Run(job.cell, job.folder.scores(), job.folder.diagnostics() if has else {})


def write_report(
    study: StudyConfig, root: Path, folder: Path | None = None, partial: bool = False
) -> Path:
    """Write ``index.html``, its PNG and CSV files, ``scores.npz`` and a short ``README.md``.

    :param root: the study's folder
    :param folder: where to write; None for ``report`` in the study's folder
    :param partial: take runs that are not done for what they have
    :return: the page
    """
    results = load_results(study, root, partial)
    folder = root / "report" if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "summary": tables.summary(results.runs, results.random),
        "verdicts": tables.verdicts(results.findings),
        "scores": tables.scores(results.runs),
    }
    for name, table in rows.items():
        tables.write_csv(folder / f"{name}.csv", table)
    write_npz(folder / "scores.npz", tables.tensors(results.runs))
    pictures = {name: png_of(figure) for name, figure in _figures(results).items()}
    for name, png in pictures.items():
        with atomic(folder / f"{name}.png") as temporary:
            temporary.write_bytes(png)
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(_readme(results, folder))
    with atomic(folder / "index.html") as temporary:
        temporary.write_text(_page(results, rows, pictures).html())
    return folder / "index.html"


def _figures(results: Results) -> dict[str, Figure]:
    """Draw what there is something to draw of."""
    drawn = {
        "differences": figures.differences(results.findings),
        "learning_curves": figures.learning_curves(results.runs, results.random),
        "dormant_neurons": figures.dormant_neurons(results.runs),
        "expert_weights": figures.expert_weights(results.runs),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _page(results: Results, rows: Mapping[str, tables.Rows], pictures: Mapping[str, bytes]) -> Page:
    page = Page(QUESTION)
    _introduction(page, results)
    _claims(page, results, pictures)
    _returns(page, rows["summary"], results.random, pictures)
    _insides(page, pictures)
    _limits(page, results)
    _silences(page)
    _reproduce(page, results)
    return page


def _introduction(page: Page, results: Results) -> None:
    page.text(
        "An agent learns to play several small Atari-like games (MinAtar) with one neural network. "
        "Either the games are interleaved, so that it plays all of them at the same time, or it "
        "plays one for a long while, then the next. Such changes make networks lose their ability "
        "to learn. A mixture of experts splits the network into several parts (experts), and a "
        "router decides how much each counts for the situation at hand. The paper “Mixture of "
        "Experts in a Mixture of RL settings” (Willi, Obando-Ceron and others, 2024) reports that "
        "this helps. Its code is not public; this page is an independent test of what it says, "
        "with PPO of Stable-Baselines3.",
        _extent(results),
    )


def _extent(results: Results) -> str:
    """Say how much was run."""
    study = results.study
    seeds = len({run.cell.seed for run in results.runs})
    return (
        f"Games: {', '.join(study.games)}. {len(results.runs)} of {len(study.cells())} training "
        f"runs are done, with {seeds} {'seed' if seeds == 1 else 'seeds'} and "
        f"{study.steps_per_task:,} environment steps per game and visit."
    )


def _readme(results: Results, folder: Path) -> str:
    """Give the headline as Markdown, for those who browse the folder."""
    parts = [f"# {QUESTION}", _extent(results) + " The whole report is [index.html](index.html)."]
    if tables.verdicts(results.findings):
        parts.append(claims_table(folder))
    parts += [
        "Mean return over the last tenth of the game's training, with a 95% interval over seeds:",
        returns_table(folder),
        "![Return of each game while training goes on](learning_curves.png)",
    ]
    return "\n\n".join(parts) + "\n"


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
        f"always so with fewer than {rule.min_seeds} seeds. For a claim of “no better” it is the "
        "other way round. Over several games a claim is supported if it is on one of them and "
        "contradicted on none, and contradicted likewise.",
    )
    page.table(
        [_claim_row(finding) for finding in results.findings],
        {"text": "Claim", "verdict": "Verdict", "why": "Because"},
    )
    if "differences" in pictures:
        page.picture(
            pictures["differences"],
            "Every primary comparison: the mean difference over seeds and its interval. Grey is "
            "too small to matter; to the right is what the claim says (for “not greater”: against "
            "it).",
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
            "p_adjusted": "p (Holm)" if primary else "p",
            "seeds": "Seeds",
            "verdict": "Verdict",
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
        "why": why or "the runs that it compares are not all done",
    }


def _returns(
    page: Page,
    summary: tables.Rows,
    random: Mapping[str, float],
    pictures: Mapping[str, bytes],
) -> None:
    page.section("What the agents reached")
    page.text(
        "Return: the mean over the last tenth of the game's training, with an interval over seeds "
        "where there are several. “At the end” is the same "
        "game once all training is over: what is left of it after other games were trained. "
        "“Times random” compares with an agent that acts at random."
    )
    games = list(dict.fromkeys(row["game"] for row in summary))
    page.table(
        tables.by_network(summary),
        {"setting": "Setting", "network": "Network"}
        | {f"return {game}": game for game in games}
        | {f"ratio {game}": f"{game} times random" for game in games}
        | {f"at_the_end {game}": f"{game} at the end" for game in games}
        | {"dormant": "Dormant neurons", "seeds": "Seeds"},
    )
    page.text("Random: " + ", ".join(f"{g} {number(random[g])}" for g in games) + ".")
    page.picture(
        pictures["learning_curves"],
        "Return of each game while training goes on: a row for each way to mix the games, a column "
        "for each game. Shading marks when the game was trained; the dotted line is the random "
        "policy; bands reach from the worst to the best seed.",
    )


def _insides(page: Page, pictures: Mapping[str, bytes]) -> None:
    page.section("Inside the networks")
    page.picture(
        pictures["dormant_neurons"],
        "Dormant neurons: those whose activation is almost always far below their layer's mean "
        f"(tau-dormant with tau {TAUS[0]}, arXiv 2302.12902), pooled over each layer and averaged "
        "over layers. Fewer means that more of the network is at work.",
    )
    if "expert_weights" in pictures:
        page.picture(
            pictures["expert_weights"],
            "How much each expert counts for each game at the end of training (rows sum to one), "
            "where the router is learned. Which expert comes first is chance, so each seed's are "
            "sorted by their weight for the first game, then averaged over seeds. Equal rows mean "
            "that the router does not tell the games apart.",
        )


def _limits(page: Page, results: Results) -> None:
    """Say where a mixture did not help: what is measured below dense, and what stays open."""
    page.section("Where a mixture of experts did not help")
    rows = [row for f in results.findings for row in f.rows if row.contrast.expects == "greater"]
    worse = [row for row in rows if row.estimate.high < row.contrast.smallest_effect]
    lines = [
        f"{row.contrast.label}, {row.contrast.measure}, {row.game}: "
        f"{interval(row.estimate.mean, row.estimate.low, row.estimate.high)}"
        for row in worse
    ]
    if lines:
        page.text("Comparisons whose interval rules out the smallest benefit that would matter:")
        page.items(lines)
    else:
        page.text("No comparison rules out a benefit that would matter; see the intervals above.")
    page.text(
        "Games of this size are far simpler than Atari, networks here have two layers of 64, and "
        "the intervals rest on few seeds. Nothing here speaks of larger networks or longer runs."
    )


def _silences(page: Page) -> None:
    page.section("What we chose where the paper is silent")
    page.items(SILENCES)


def _reproduce(page: Page, results: Results) -> None:
    page.section("To check this page")
    ran = results.provenance
    page.text("The command, the versions and the machine:")
    page.code(str(ran.get("command", "")))
    page.code(json.dumps({k: ran.get(k) for k in ("versions", "hardware")}, indent=2))
    page.text(
        "The study's configuration. Beside this page are its pictures as PNG, and summary.csv, "
        "verdicts.csv and scores.csv; scores.npz holds the return of every episode."
    )
    page.code(json.dumps(results.study.to_dict(), indent=2))
