"""Run the cells of a grid that are missing, each in its folder, and watch them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sb3_moe.study.run.engine import Engine
from sb3_moe.study.run.folder import CellFolder, State
from sb3_moe.study.run.locks import PATIENCE, held
from sb3_moe.study.run.stopping import interrupted_by_signals
from sb3_moe.study.run.view import View
from sb3_moe.study.spec.config import CellConfig, differences

POLL_SECONDS = 0.3


class ChangedConfigError(ValueError):
    """A folder holds a run of another configuration."""


class Job(NamedTuple):
    """A cell, its folder, and what the folder held when last looked at."""

    cell: CellConfig
    folder: CellFolder
    state: State


def survey(cells: Sequence[CellConfig], root: Path) -> list[Job]:
    """Look at the folder of every cell."""
    folders = [CellFolder(root / "cells" / cell.name) for cell in cells]
    return [Job(cell, folder, folder.state()) for cell, folder in zip(cells, folders, strict=True)]


def changes(job: Job) -> list[str]:
    """Say, a line each, how a folder's configuration differs from that of its cell.

    One in which the run starts anew has no results that could be mixed up, so that it may differ.
    """
    status = job.state.status
    if status in ("missing", "damaged") or (status == "failed" and not job.folder.checkpoints()):
        return []
    try:
        found = job.folder.config().get("cell", {})
    except ValueError:  # it failed before it could write one
        return []
    return differences(_of_today(found), job.cell.to_dict())


def _of_today(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give what an earlier version wrote as this one would write it; as it is if it can't be."""
    try:
        return CellConfig.from_dict(cell).to_dict()
    except (ImportError, KeyError, TypeError, ValueError):
        return cell


def refuse_changes(jobs: Sequence[Job]) -> None:
    """Raise if a folder was made by another configuration.

    :raises ChangedConfigError: saying which folder, and what differs
    """
    for job in jobs:
        lines = changes(job)
        if lines:
            raise ChangedConfigError(
                f"{job.folder.path} was made with another configuration; use another output "
                "folder, or change it back:\n  " + "\n  ".join(lines)
            )


def unfinished(jobs: Sequence[Job], retry: bool) -> list[Job]:
    """List what is to be run; cells that failed or are damaged only when asked to."""
    wanted = {"missing", "interrupted"} | ({"failed", "damaged"} if retry else set())
    chosen = [job for job in jobs if job.state.status in wanted]
    for job in chosen:
        if job.state.status in ("failed", "damaged"):
            _make_ready(job.folder)
    return chosen


def _make_ready(folder: CellFolder) -> None:
    """Forget what went wrong; without a snapshot to go on from, forget everything."""
    with held(folder.path, PATIENCE):
        folder.forgive()
        status = folder.state().status
        if status == "damaged" or (status == "interrupted" and not folder.snapshots()):
            folder.clear()


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
