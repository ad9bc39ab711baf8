"""A study's folder as one table of results.

The table has a row for each value of each run, in the columns ``regime``, ``order``,
``architecture``, ``seed``, ``measure``, ``task``, ``step`` and ``value``. With a step it is of one
evaluation: ``return``, ``success``, or one of :data:`~sb3_moe.study.measures.INSIDES`. Without one
it is one of :data:`~sb3_moe.study.measures.MEASURES`, of the whole run. Runs that have no value
(yet) of a measure have a row with NaN, so that the table also says what is missing.
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
from sb3_moe.study.building import algorithm_class
from sb3_moe.study.config import RunConfig
from sb3_moe.study.folder import Job, refuse_changes, survey
from sb3_moe.study.grid import StudyConfig
from sb3_moe.study.measures import INSIDES, MEASURES, NAN, WHOLE, References, Run, block_end
from sb3_moe.vec_env.evaluating import is_told_masks

COLUMNS = ["regime", "order", "architecture", "seed", "measure", "task", "step", "value"]
#: Where, in a study's folder, the values stand that its networks take of what is tuned.
CHOICES = "tune.json"


@dataclass(frozen=True)
class Results:
    """All that a report is made of.

    :param study: what was asked for
    :param runs: those that are done, and those that count as far as they have come
    :param random: the random policy's mean return on each task
    :param table: see above
    :param problems: what readers should know of single runs: run, task, problem and value
    :param arguments: of the algorithm, by network
    :param choices: how the values of what is tuned scored, and which networks took
    :param provenance: what ``study.json`` says of the study that was run last in the folder, and
        the versions and hardware that runs had
    """

    study: StudyConfig
    runs: Sequence[Run]
    random: Mapping[str, float]
    table: pd.DataFrame
    problems: Sequence[tuple[str, str, str, Any]] = ()
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def load_results(study: StudyConfig, root: Path, partial: bool = False) -> Results:
    """Read a study's folder.

    :param partial: take runs that are not done for what they have
    :raises ValueError: if no run is done, or what numbers rest on was made by another
        configuration
    """
    jobs = survey(study.runs(), root)
    refuse_changes(jobs)
    wanted = ("done", "interrupted") if partial else ("done",)
    # A run that starts anew may hold a file without rows.
    there = [
        job
        for job in jobs
        if job.state.status in wanted and len(job.folder.scores().get("steps", ()))
    ]
    if not there:
        raise ValueError(f"a report needs a run that is done, {root} has none: run the study")
    runs = read_runs(there)
    random = random_means(study, root)
    configs = {job.run.architecture.name: job.folder.config() for job in there}
    machines = Counter(json.dumps(job.folder.config().get("versions")) for job in there)
    said = read_json(root / "study.json")
    choices = root / CHOICES
    return Results(
        study,
        runs,
        random,
        as_table(study.runs(), runs, random),
        list(_problems(jobs, runs, random)),
        {name: config.get("arguments", {}) for name, config in configs.items()},
        read_json(choices) if choices.exists() else {},
        {
            "command": said.get("command"),
            **{f"{count} runs": json.loads(each) for each, count in machines.most_common()},
        },
    )


def read_runs(jobs: Sequence[Job]) -> list[Run]:
    """Read what the folders of runs have measured.

    Episodes that say nothing of success count as failures, on tasks of which any run's do: a run
    that never succeeded may hold no word of success.
    """
    runs = [Run(job.run, job.folder.scores(), job.folder.diagnostics()) for job in jobs]
    if not all("successes" in run.scores for run in runs):
        return runs
    said = [run.scores["successes"] for run in runs]
    spoken = np.any([np.isfinite(each).any(axis=(0, 2)) for each in said], axis=0)[:, None]
    filled = [np.where(spoken, np.nan_to_num(each), each) for each in said]
    changed = ({**r.scores, "successes": f} for r, f in zip(runs, filled, strict=True))
    return [replace(run, scores=scores) for run, scores in zip(runs, changed, strict=True)]


def imagined(runs: Sequence[RunConfig]) -> pd.DataFrame:
    """Give the table that a study may come to have, to see of what there will be values."""
    there = []
    for run in runs:
        steps = np.arange(0, run.total_steps + 1, run.steps_per_task)
        ones = np.ones((len(steps), len(run.games), 1))
        scores = {"steps": steps, "score": ones[:, :, 0], "successes": ones}
        inside = {f"{kind}/all": np.ones(len(steps)) for kind in ("dormant", "inactive")}
        there.append(Run(run, scores, {"steps": steps, **inside}))
    return as_table(runs, there, dict.fromkeys(runs[0].games, 0.0))


def as_table(
    planned: Sequence[RunConfig], runs: Sequence[Run], random: Mapping[str, float]
) -> pd.DataFrame:
    """Measure the runs of a study.

    :param planned: the runs of the study, done or not
    :param runs: those that there are
    :param random: mean return of the random policy, by task
    """
    found = {run.config.name: run for run in runs}
    references = References(found, random, planned)
    rows = [
        (run.regime, " ".join(run.order), run.architecture.name, run.seed, *value)
        for run in planned
        for value in _values(run, found.get(run.name), references)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"step": "Int64"})
    return table.replace({"value": [np.inf, -np.inf]}, np.nan)


def _values(
    config: RunConfig, run: Run | None, references: References
) -> Iterator[tuple[Any, ...]]:
    """Give measure, task, step and value of all that is known of a run."""
    for name, measure in MEASURES.items():
        for task in measure.tasks(config):
            yield name, task, None, measure.value(run, task, references) if run else NAN
    if run is None:
        return
    for task in config.games:
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
            yield job.run.name, "", job.state.status, job.state.reason
    for run in runs:
        name, last = run.config.name, run.steps[-1]
        if last < run.config.total_steps:
            yield name, "", "ended early", f"step {last} of {run.config.total_steps}"
        for task in run.config.games:
            end, odd = block_end(run, task), ~np.isfinite(run.returns(task))
            if end < random.get(task, np.nan):
                yield name, task, "below the random policy at the end of its training", end
            if odd.any():
                yield name, task, "returns that are not numbers", f"{odd.sum()} of {len(odd)}"


def random_means(study: StudyConfig, root: Path) -> dict[str, float]:
    """Read the random policy's mean return on each task.

    :raises ValueError: if it was not measured, or in other environments
    """
    found = read_json(root / "random.json")
    if found.get("of") != random_of(study):
        raise ValueError(
            f"random.json must be of {random_of(study)}, got {found.get('of')}: run the study, "
            "which measures it again"
        )
    return {task: float(np.mean(values)) for task, values in found["returns"].items()}


def random_of(study: StudyConfig) -> dict[str, Any]:
    """Say what decides how well a random policy plays."""
    world = {name: study.to_dict()[name] for name in ("games", "tasks", "env", "no_op_max")}
    masked = is_told_masks(algorithm_class(study.algorithm))
    return {**world, "episodes": study.random_episodes, "masked": masked}
