"""How fast cells train on this machine, measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from sb3_moe.files.json_file import read_json
from sb3_moe.study.run.engine import LocalEngine
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.jobs import Job
from sb3_moe.study.run.runner import run
from sb3_moe.study.spec.algorithms import default_of, is_off_policy
from sb3_moe.study.spec.arguments import given
from sb3_moe.study.spec.config import CellConfig

ROLLOUTS = 4
# Of the trial that isn't counted.
FIRST = 1
# Of an off-policy algorithm, whose rollouts may be a step long.
LEARNING_STEPS = 1000


class Speeds(NamedTuple):
    """How fast cells train, and what each costs besides.

    :param rates: environment steps per second of each architecture, evaluation included
    :param start: seconds in which a cell takes no steps: its process and network are built, it is
        evaluated for the first time; None where none was tried, so that nobody looked
    """

    rates: dict[str, float]
    start: float | None


class _Silent:
    """A view that shows nothing."""

    def started(self, job: Job) -> None:
        """Ignore it."""

    def ended(self, job: Job, state: object) -> None:
        """Ignore it."""

    def refresh(self, running: Sequence[Job]) -> None:
        """Ignore it."""


def measured_speeds(jobs: Sequence[Job], tell: Callable[[str, float], None]) -> Speeds:
    """Say how fast each architecture trains, and how long a cell takes to start.

    Cells that are done say how long they took; an architecture without one trains for a moment in
    a temporary folder.

    :param jobs: cells, one at least of each architecture
    :param tell: is told each architecture's name and rate as soon as it is known
    """
    rates, starts = _past_speeds(jobs), []
    for name, rate in rates.items():
        tell(name, rate)
    untried = _untried(jobs, rates)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for job in list(untried.values())[:1]:
            # Not counted: it leaves the others the compiled games, as a study's first cell does.
            _try(_shortened(job.cell, FIRST), root / ".first", root / ".jax")
        for name, job in untried.items():
            rates[name], start = _try(_shortened(job.cell), root / name, root / ".jax")
            starts.append(start)
            tell(name, rates[name])
    return Speeds(rates, mean(starts) if starts else None)


def steps_to_measure(jobs: Sequence[Job]) -> int:
    """Count the steps that :func:`measured_speeds` would train."""
    cells = [job.cell for job in _untried(jobs, _past_speeds(jobs)).values()]
    trials = [_shortened(cell, FIRST) for cell in cells[:1]] + [_shortened(cell) for cell in cells]
    return sum(trial.total_steps for trial in trials)


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


def _try(short: CellConfig, path: Path, cache: Path) -> tuple[float, float]:
    """Train a cell for a few rollouts in a process of its own; give its rate, and its start."""
    trial = Job(short, CellFolder(path), CellFolder(path).state())
    begun = time.monotonic()
    run([trial], LocalEngine(1, cache), _Silent())
    seconds = time.monotonic() - begun
    state = trial.folder.state()
    if state.status != "done":
        raise RuntimeError(f"a trial of {short.name} {state.status}: {state.reason}")
    live = trial.folder.live()
    return float(live["rate"]), max(0.0, seconds - float(live["seconds"]))


def _shortened(cell: CellConfig, rollouts: int = ROLLOUTS) -> CellConfig:
    """Evaluate a short cell about as much, step for step, as the whole one."""
    waits = _waits(cell)
    steps = min(cell.steps_per_task, _trial_steps(cell, rollouts, waits))
    due = cell.evaluation.points * steps / cell.steps_per_task
    points = max(1, round(due))
    # The one there must be would count for more than the training between it and the next.
    episodes = max(1, round(cell.evaluation.episodes * min(1.0, due / points)))
    evaluation = replace(cell.evaluation, points=points, episodes=episodes)
    own = {**cell.architecture.arguments, **({} if waits is None else {"learning_starts": waits})}
    # Its start is not there yet, and no faster or slower than new weights.
    new = replace(cell.architecture, start_from=None, arguments=own)
    return replace(
        cell, architecture=new, steps_per_task=steps, evaluation=evaluation, checkpoints=1
    )


def _waits(cell: CellConfig) -> int | None:
    """Give the steps before an off-policy algorithm learns in a trial; None: it is none.

    It needn't wait, which takes long and is faster than what is measured, unless for a buffer of
    the user's choice: hindsight has nothing to draw before an episode has ended.
    """
    if not is_off_policy(cell.algorithm):
        return None
    arguments = given(cell)
    if "replay_buffer_class" not in arguments:
        return 0
    return int(arguments.get("learning_starts", default_of(cell.algorithm, "learning_starts")))


def _trial_steps(cell: CellConfig, rollouts: int, waits: int | None) -> int:
    """Give whole rollouts, in most of which the algorithm learns unless the first is enough."""
    rollout = cell.rollout
    if waits is None or rollouts == FIRST:
        return rollouts * rollout
    return -(-(waits + LEARNING_STEPS) // rollout) * rollout
