"""How fast cells train on this machine, measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from stable_baselines3.her import HerReplayBuffer

from sb3_moe.saving.files import read_json
from sb3_moe.study.run.engine import LocalEngine
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.jobs import Job
from sb3_moe.study.run.runner import run
from sb3_moe.study.spec.algorithms import declared, default_of, is_off_policy
from sb3_moe.study.spec.arguments import given
from sb3_moe.study.spec.config import CellConfig
from sb3_moe.vec_env.make import MAX_COPIES

ROLLOUTS = 4
# Of the trial that isn't counted.
FIRST = 1
# Of an off-policy algorithm, whose rollouts may be a step long.
LEARNING_STEPS = 1000


class Speeds(NamedTuple):
    """How fast cells train, and what each costs besides.

    :param rates: environment steps per second of each architecture, evaluation included
    :param start: seconds that a cell takes besides, until its process and network are built and
        what its evaluations play is compiled; None where none was tried, so that nobody looked
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
            _try(job.cell, _shortened(job.cell, FIRST), root / ".first", root / ".jax")
        for name, job in untried.items():
            short = _shortened(job.cell)
            rates[name], start = _try(job.cell, short, root / name, root / ".jax")
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


def _try(cell: CellConfig, short: CellConfig, path: Path, cache: Path) -> tuple[float, float]:
    """Train a short cell in a process of its own; give the whole one's rate, and its start."""
    trial = Job(short, CellFolder(path), CellFolder(path).state())
    begun = time.monotonic()
    run([trial], LocalEngine(1, cache), _Silent())
    seconds = time.monotonic() - begun
    state = trial.folder.state()
    if state.status != "done":
        raise RuntimeError(f"a trial of {short.name} {state.status}: {state.reason}")
    live = trial.folder.live()
    evaluations = live["evaluations"]
    # The first one compiles what it plays, too.
    each = evaluations[-1]
    training = max(live["seconds"] - sum(evaluations), 1e-9)
    start = seconds - training - len(evaluations) * each
    rate = _rate(cell, training / live["steps"], each / short.evaluation.episodes)
    return rate, max(0.0, start)


def _rate(cell: CellConfig, step: float, episode: float) -> float:
    """Give the steps per second of a whole cell with its evaluations.

    :param step: seconds of a step of training
    :param episode: seconds of an evaluation's episode of every task
    """
    visits = cell.total_steps // cell.steps_per_task
    # One before training, and then at most one after each rollout.
    evaluations = 1 + min(visits * cell.evaluation.points, cell.total_steps // cell.rollout)
    evaluating = evaluations * cell.evaluation.episodes * episode
    return cell.total_steps / (cell.total_steps * step + evaluating)


def _shortened(cell: CellConfig, rollouts: int = ROLLOUTS) -> CellConfig:
    """Give a cell of a few rollouts, evaluated before and after them in as many copies as ever."""
    waits = _waits(cell)
    steps = min(cell.steps_per_task, _trial_steps(cell, rollouts, waits))
    evaluation = replace(
        cell.evaluation, points=1, episodes=min(cell.evaluation.episodes, MAX_COPIES)
    )
    own = {**cell.architecture.arguments, **({} if waits is None else {"learning_starts": waits})}
    # Its start is not there yet, and no faster or slower than new weights.
    new = replace(cell.architecture, start_from=None, arguments=own)
    return replace(
        cell, architecture=new, steps_per_task=steps, evaluation=evaluation, checkpoints=1
    )


def _waits(cell: CellConfig) -> int | None:
    """Give the steps before an off-policy algorithm learns in a trial; None: it is none.

    It needn't wait, which takes long and is faster than what is measured, unless its buffer must:
    hindsight has nothing to draw before an episode has ended, and what one of the user's own needs
    nobody knows.
    """
    if not is_off_policy(cell.algorithm):
        return None
    arguments = declared(cell.algorithm, given(cell))
    buffer = arguments.get("replay_buffer_class")
    if buffer is None or _draws_at_once(buffer):
        return 0
    return int(arguments.get("learning_starts", default_of(cell.algorithm, "learning_starts")))


def _draws_at_once(buffer: type) -> bool:
    package = buffer.__module__.partition(".")[0]
    known = package in ("stable_baselines3", "sb3_contrib", "sb3_moe")
    return known and not issubclass(buffer, HerReplayBuffer)


def _trial_steps(cell: CellConfig, rollouts: int, waits: int | None) -> int:
    """Give whole rollouts, in most of which the algorithm learns unless the first is enough."""
    rollout = cell.rollout
    if waits is None or rollouts == FIRST:
        return rollouts * rollout
    return -(-(waits + LEARNING_STEPS) // rollout) * rollout
