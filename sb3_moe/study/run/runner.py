"""Run jobs wherever an engine puts them, and watch them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sb3_moe.study.run.engine import Engine
from sb3_moe.study.run.folder import State
from sb3_moe.study.run.jobs import Job, make_ready
from sb3_moe.study.run.locks import BusyError, held
from sb3_moe.study.run.stopping import interrupted_by_signals
from sb3_moe.study.run.view import View

POLL_SECONDS = 0.3


def run(jobs: Sequence[Job], engine: Engine, view: View) -> None:
    """Run jobs to their end, as many at a time as the engine takes.

    :param jobs: in the order in which they start
    :param engine: where they run; stopped at the end, whatever happens
    :param view: told of each start and end, and of the progress in between
    """
    waiting = list(jobs)
    running: dict[str, Job] = {}
    try:
        while waiting or running:
            for lost in _without_start(waiting, running):
                waiting.remove(lost)
                view.ended(lost, State("missing", f"{lost.cell.start}, its start, is not done"))
            while len(running) < engine.capacity and (job := _next(waiting)) is not None:
                waiting.remove(job)
                view.started(job)
                try:
                    make_ready(job)
                except BusyError as error:
                    view.ended(job, State(job.state.status, str(error)))
                    continue
                engine.start(job.cell, job.folder.path)
                running[job.cell.name] = job
            for name, ending in engine.ended().items():
                job = running.pop(name)
                view.ended(job, _explained(job.folder.state(), ending))
            view.refresh(list(running.values()))
            time.sleep(POLL_SECONDS)
    finally:
        engine.stop()


def _has_start(job: Job) -> bool:
    """Say whether the cell that a job begins with, if there is one, is done."""
    start = job.cell.start
    # Written last. Whether the rest is as it was is checked where it is read.
    cells = job.folder.cells(job.cell.name)
    return start is None or (cells / start / "done.json").is_file()


def _next(waiting: Sequence[Job]) -> Job | None:
    return next((job for job in waiting if _has_start(job)), None)


def _without_start(waiting: Sequence[Job], running: Mapping[str, Job]) -> list[Job]:
    """List the jobs that wait for a cell that nobody will finish."""
    names = {*running, *(job.cell.name for job in waiting)}
    return [job for job in waiting if job.cell.start not in names and not _has_start(job)]


def _explained(state: State, ending: str) -> State:
    """Say how a process ended that recorded neither its success nor an error."""
    recorded = state.status in ("done", "failed")
    return state if recorded or not ending else State(state.status, ending)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second runner out of a folder; what tells this one to end, interrupts it.

    :raises BusyError: if one is at work there
    """
    with held(root), interrupted_by_signals():
        yield
