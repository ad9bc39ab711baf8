"""A study's folder as one table of results.

The table has a row for each value of each run, in the columns ``regime``, ``order``,
``architecture``, ``seed``, ``measure``, ``task``, ``step`` and ``value``. With a step it is of one
evaluation: ``return``, ``success``, or one of :data:`~sb3_moe.study.report.measures.INSIDES`.
Without one it is one of :data:`~sb3_moe.study.report.measures.MEASURES`, of the whole run. Runs
that have no value (yet) of a measure have a row with NaN, so that the table also says what is
missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sb3_moe.saving.files import read_json
from sb3_moe.study.report.measures import INSIDES, MEASURES, WHOLE, References, Run, block_end
from sb3_moe.study.run.jobs import Job, refuse_changes, survey
from sb3_moe.study.run.random_policy import read_returns
from sb3_moe.study.spec.config import CellConfig, plain
from sb3_moe.study.spec.grid import StudyConfig

COLUMNS = ["regime", "order", "architecture", "seed", "measure", "task", "step", "value"]


@dataclass(frozen=True)
class Results:
    """All that a report is made of.

    :param study: what was asked for
    :param runs: those that are done, and those that count as far as they have come
    :param random: the random policy's mean return on each task
    :param table: see above
    :param problems: what readers should know of single runs: run, task, problem and value
    :param arguments: of the algorithm, by network
    :param provenance: what ``study.json`` says of the study that was run last in the folder, and
        the versions and hardware that runs had
    """

    study: StudyConfig
    runs: Sequence[Run]
    random: Mapping[str, float]
    table: pd.DataFrame
    problems: Sequence[tuple[str, str, str, Any]] = ()
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def load_results(study: StudyConfig, root: Path, partial: bool = False) -> Results:
    """Read a study's folder.

    :param partial: take runs that are not done for what they have
    :raises ValueError: if no run is done, or what numbers rest on was made by another
        configuration
    """
    jobs = survey(study.cells(), root)
    refuse_changes(jobs)
    wanted = ("done", "interrupted") if partial else ("done",)
    there = [job for job in jobs if job.state.status in wanted and has_scores(job)]
    if not there:
        raise ValueError(f"a report needs a run that is done, {root} has none: run the study")
    runs = with_silent_failures(list(map(read_run, there)))
    last = read_json(root / "study.json")
    random = _random_means(study, root, last)
    said = {job.cell.architecture.name: job.folder.config() for job in there}
    return Results(
        study,
        runs,
        random,
        as_table(study.cells(), runs, random),
        list(_problems(jobs, runs, random)),
        {name: config.get("arguments", {}) for name, config in said.items()},
        {**last, "study": last.get("study", {}).get("name"), **_machines(there)},
    )


def has_scores(job: Job) -> bool:
    """Say whether a run was ever evaluated: one that starts anew may hold a file without rows."""
    there = (job.folder.path / "scores.npz").exists()
    return there and len(job.folder.scores().get("steps", ())) > 0


def read_run(job: Job) -> Run:
    """Read what a run's folder has measured."""
    has = (job.folder.path / "diagnostics.npz").exists()
    return Run(job.cell, job.folder.scores(), job.folder.diagnostics() if has else {})


def with_silent_failures(runs: Sequence[Run]) -> list[Run]:
    """Count episodes that say nothing of success as failures, on tasks of which any run's do.

    A run that never succeeded may hold no word of success.
    """
    if not all("successes" in run.scores for run in runs):
        return list(runs)
    said = [run.scores["successes"] for run in runs]
    spoken = np.any([np.isfinite(each).any(axis=(0, 2)) for each in said], axis=0)[:, None]
    filled = [np.where(spoken, np.nan_to_num(each), each) for each in said]
    changed = ({**r.scores, "successes": f} for r, f in zip(runs, filled, strict=True))
    return [replace(run, scores=scores) for run, scores in zip(runs, changed, strict=True)]


def as_table(
    cells: Sequence[CellConfig], runs: Sequence[Run], random: Mapping[str, float]
) -> pd.DataFrame:
    """Measure the runs of a study.

    :param cells: of the study, done or not
    :param runs: that there are
    :param random: mean return of the random policy, by task
    """
    found = {run.cell.name: run for run in runs}
    references = References(runs, random, cells)
    rows = [
        (cell.regime, " ".join(cell.order), cell.architecture.name, cell.seed, *value)
        for cell in cells
        for value in _values(cell, found.get(cell.name), references)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"step": "Int64"})
    return table.replace({"value": [np.inf, -np.inf]}, np.nan)


def _values(cell: CellConfig, run: Run | None, references: References) -> Iterator[tuple[Any, ...]]:
    """Give measure, task, step and value of all that is known of a run."""
    for name, measure in MEASURES.items():
        for task in measure.tasks(cell):
            yield name, task, None, measure.value(run, task, references) if run else np.nan
    if run is None:
        return
    for task in cell.games:
        for name, values in (("return", run.returns(task)), ("success", run.success(task))):
            if np.isfinite(values).any():
                for step, value in zip(run.steps, values, strict=True):
                    yield name, task, int(step), float(value)
    for name in INSIDES:
        for step, value in zip(*run.inside(name), strict=True):
            yield name, WHOLE, int(step), float(value)


def _problems(
    jobs: Sequence[Job], runs: Sequence[Run], random: Mapping[str, float]
) -> Iterator[tuple[str, str, str, Any]]:
    """List what readers should know of single runs: the run, the task, what, and the value."""
    for job in jobs:
        if job.state.status not in ("done", "missing"):
            yield job.cell.name, "", job.state.status, job.state.reason
    for run in runs:
        name, last = run.cell.name, run.steps[-1]
        if last < run.cell.total_steps:
            yield name, "", "ended early", f"step {last} of {run.cell.total_steps}"
        for task in run.cell.games:
            end, odd = block_end(run, task), ~np.isfinite(run.returns(task))
            if end < random.get(task, np.nan):
                yield name, task, "below the random policy at the end of its training", end
            if odd.any():
                yield name, task, "returns that are not numbers", f"{odd.sum()} of {len(odd)}"


def _machines(jobs: Sequence[Job]) -> dict[str, Any]:
    """Give the versions and hardware that runs had, under the number of these runs."""
    configs = (job.folder.config() for job in jobs)
    counts = Counter(json.dumps({k: c.get(k) for k in ("versions", "hardware")}) for c in configs)
    numbered = enumerate(counts.most_common(), 1)
    return {f"{count} runs ({k})": json.loads(each) for k, (each, count) in numbered}


def _random_means(study: StudyConfig, root: Path, last: Mapping[str, Any]) -> dict[str, float]:
    try:
        check_level(study, last)
        returns = read_returns(root / "random.json", study.games, study.random_episodes)
    except ValueError as error:
        raise ValueError(f"{error}: run the study, which measures it again") from error
    return {task: float(np.mean(values)) for task, values in returns.items()}


def check_level(study: StudyConfig, last: Mapping[str, Any]) -> None:
    """Raise if the random policy played last in other environments than the study's.

    :param last: of ``study.json``, the study that was run last in the folder
    :raises ValueError: naming both
    """
    if not isinstance(said := last.get("study"), Mapping):
        return
    played = {name: said[name] for name in ("tasks", "env", "no_op_max") if said.get(name)}
    if played != plain(study.world):
        raise ValueError(f"random.json must be of {plain(study.world)}, got {played}")
