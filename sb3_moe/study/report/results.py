"""What a study's folder says, read and judged."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sb3_moe.saving.files import read_json
from sb3_moe.study.report.claims import Claims, load_claims
from sb3_moe.study.report.facts import shared_arguments
from sb3_moe.study.report.judging import Finding, judge_claims
from sb3_moe.study.report.last_run import check_level, other_study
from sb3_moe.study.report.references import References
from sb3_moe.study.report.runs import Run, with_silent_failures
from sb3_moe.study.run.jobs import Job, refuse_changes, survey
from sb3_moe.study.run.random_policy import read_returns
from sb3_moe.study.spec.grid import StudyConfig

#: What a run's ``config.json`` says of what it ran on.
RAN_ON = ("versions", "hardware")


@dataclass(frozen=True)
class Results:
    """All that a report is made of.

    :param study: what was asked for
    :param runs: the cells that are done, and those that count as far as they have come
    :param random: the random policy's mean return on each game
    :param references: what returns are compared with
    :param findings: what became of each claim
    :param claims: the claims and their rule
    :param provenance: versions, hardware and command
    :param arguments: of the algorithm, those that all runs share
    :param interrupted: how many of the runs are not done
    :param ended_early: how many are done, but were ended by a callback before their last step
    :param failed: the cells that failed or are damaged, and why: no number has them in it
    :param machines: the versions and hardware that runs had, each with the number of runs
    :param other: of the study that was run last in the folder, where it is another one: its
        ``name``, and the ``entries`` that differ
    """

    study: StudyConfig
    runs: list[Run]
    random: dict[str, float]
    references: References
    findings: list[Finding]
    claims: Claims
    provenance: Mapping[str, Any]
    arguments: Mapping[str, Any]
    interrupted: int = 0
    ended_early: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    machines: Sequence[tuple[Mapping[str, Any], int]] = ()
    other: Mapping[str, Any] = field(default_factory=dict)


def load_results(study: StudyConfig, root: Path, partial: bool = False) -> Results:
    """Read a study's folder.

    :param partial: take runs that are not done for what they have
    :raises ValueError: if no cell is done, or what numbers rest on was made by another
        configuration
    """
    wanted = ("done", "interrupted") if partial else ("done",)
    cells = study.cells()
    everything = survey(cells, root)
    refuse_changes(everything)
    jobs = [job for job in everything if job.state.status in wanted]
    jobs = [job for job in jobs if has_scores(job)]
    if not jobs:
        raise ValueError(f"a report needs a cell that is done, {root} has none: run the study")
    runs = with_silent_failures([_run(job) for job in jobs])
    last = read_json(root / "study.json")
    random = _random_means(study, root, last)
    references = References(runs, random, cells)
    claims = load_claims(study.claims) if study.claims else Claims()
    claims.check_tasks(study.games)
    return Results(
        study,
        runs,
        random,
        references,
        judge_claims(claims, runs, references, cells),
        claims,
        last,
        shared_arguments(study, jobs[0].folder.config()),
        sum(job.state.status != "done" for job in jobs),
        sum(map(_ended_early, jobs)),
        {
            job.cell.name: job.state.reason
            for job in everything
            if job.state.status in ("failed", "damaged", "unreadable")
        },
        _machines(jobs),
        other_study(study, last),
    )


def has_scores(job: Job) -> bool:
    """Say whether a run was ever evaluated: one that starts anew may hold a file without rows."""
    there = (job.folder.path / "scores.npz").exists()
    return there and len(job.folder.scores().get("steps", ())) > 0


def _machines(jobs: Sequence[Job]) -> list[tuple[dict[str, Any], int]]:
    """Give what runs ran on, each with their number, the most frequent first."""
    counts: dict[str, int] = defaultdict(int)
    for job in jobs:
        said = job.folder.config()
        counts[json.dumps({name: said.get(name) for name in RAN_ON})] += 1
    return [(json.loads(each), n) for each, n in sorted(counts.items(), key=lambda e: -e[1])]


def _ended_early(job: Job) -> bool:
    """Say whether a callback ended a run: SB3 stops without a word where one returns False."""
    if job.state.status != "done":
        return False
    return bool(read_json(job.folder.path / "done.json")["steps"] < job.cell.total_steps)


def _random_means(study: StudyConfig, root: Path, last: Mapping[str, Any]) -> dict[str, float]:
    try:
        check_level(study, last)
        returns = read_returns(root / "random.json", study.games, study.random_episodes)
    except ValueError as error:
        raise ValueError(f"{error}: run the study, which measures it again") from error
    return {game: float(np.mean(values)) for game, values in returns.items()}


def _run(job: Job) -> Run:
    has = (job.folder.path / "diagnostics.npz").exists()
    return Run(job.cell, job.folder.scores(), job.folder.diagnostics() if has else {})
