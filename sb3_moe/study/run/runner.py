"""Run jobs wherever an engine puts them, and watch them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sb3_moe.study.run.engine import Engine
from sb3_moe.study.run.folder import State
from sb3_moe.study.run.jobs import Job
from sb3_moe.study.run.locks import held
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
            while waiting and len(running) < engine.capacity:
                job = waiting.pop(0)
                engine.start(job.cell, job.folder.path)
                running[job.cell.name] = job
                view.started(job)
            for name, ending in engine.ended().items():
                job = running.pop(name)
                view.ended(job, _explained(job.folder.state(), ending))
            view.refresh(list(running.values()))
            time.sleep(POLL_SECONDS)
    finally:
        engine.stop()


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
