"""How fast cells train on this machine, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sb3_moe.study.run.engine import LocalEngine
from sb3_moe.study.run.folder import CellFolder, read_json
from sb3_moe.study.run.jobs import Job
from sb3_moe.study.run.runner import run
from sb3_moe.study.spec.algorithms import default_of, is_off_policy
from sb3_moe.study.spec.arguments import given
from sb3_moe.study.spec.config import CellConfig

ROLLOUTS = 4
# Of an off-policy algorithm, whose rollouts may be a step long, after those before it learns.
LEARNING_STEPS = 1000


class _Silent:
    """A view that shows nothing."""

    def started(self, job: Job) -> None:
        """Ignore it."""

    def ended(self, job: Job, state: object) -> None:
        """Ignore it."""

    def refresh(self, running: Sequence[Job]) -> None:
        """Ignore it."""


def measured_speeds(jobs: Sequence[Job]) -> dict[str, float]:
    """Give environment steps per second of each architecture, start and evaluation included.

    Cells that are done say how long they took; an architecture without one trains for a moment in
    a temporary folder.

    :param jobs: cells, one at least of each architecture
    """
    speeds = _past_speeds(jobs)
    untried = _untried(jobs, speeds)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for job in list(untried.values())[:1]:
            # Not counted: it leaves the others the compiled games, as a study's first cell does.
            _try(job, root / "first", root / ".jax")
        for name, job in untried.items():
            speeds[name] = _try(job, root / name, root / ".jax")
    return speeds


def steps_to_measure(jobs: Sequence[Job]) -> int:
    """Count the steps that :func:`measured_speeds` would train."""
    trials = [
        _shortened(job.cell).total_steps for job in _untried(jobs, _past_speeds(jobs)).values()
    ]
    return sum(trials[:1]) + sum(trials)


def _past_speeds(jobs: Sequence[Job]) -> dict[str, float]:
    """Give the speed of each architecture that has a cell which says it."""
    speeds: dict[str, float] = {}
    for job in jobs:
        speed = _past_speed(job) if job.state.status == "done" else 0.0
        if speed > 0:
            speeds.setdefault(job.cell.architecture.name, speed)
    return speeds


def _untried(jobs: Sequence[Job], speeds: Mapping[str, float]) -> dict[str, Job]:
    """Give a cell of each architecture without a speed."""
    untried: dict[str, Job] = {}
    for job in jobs:
        if job.cell.architecture.name not in speeds:
            untried.setdefault(job.cell.architecture.name, job)
    return untried


def _past_speed(job: Job) -> float:
    """Give the speed of a cell's last attempt; 0 if that had nothing left to do."""
    done = read_json(job.folder.path / "done.json")
    attempt = done["last_attempt"]
    return float((done["steps"] - attempt["start"]) / max(attempt["seconds"], 1e-2))


def _try(job: Job, path: Path, cache: Path) -> float:
    """Train a cell for a few rollouts in a process of its own."""
    short = _shortened(job.cell)
    trial = Job(short, CellFolder(path), CellFolder(path).state())
    run([trial], LocalEngine(1, cache), _Silent())
    state = trial.folder.state()
    if state.status != "done":
        raise RuntimeError(f"a trial of {short.name} {state.status}: {state.reason}")
    return float(trial.folder.live()["rate"])


def _shortened(cell: CellConfig) -> CellConfig:
    """Evaluate a short cell about as often, step for step, as the whole one."""
    steps = min(cell.steps_per_task, _trial_steps(cell))
    points = max(1, round(cell.evaluation.points * steps / cell.steps_per_task))
    evaluation = replace(cell.evaluation, points=points)
    # Its start is not there yet, and no faster or slower than new weights.
    new = replace(cell.architecture, start_from=None)
    return replace(
        cell, architecture=new, steps_per_task=steps, evaluation=evaluation, checkpoints=1
    )


def _trial_steps(cell: CellConfig) -> int:
    """Give whole rollouts, in most of which the algorithm learns."""
    rollout = cell.rollout or 1
    if not is_off_policy(cell.algorithm):
        return ROLLOUTS * rollout
    waits = given(cell).get("learning_starts", default_of(cell.algorithm, "learning_starts"))
    return -(-(int(waits) + LEARNING_STEPS) // rollout) * rollout
