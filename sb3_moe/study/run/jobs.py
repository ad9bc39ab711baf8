"""The runs of a study with their folders: what is there, what has changed, and running the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from sb3_moe.study.run.folder import CellFolder, State
from sb3_moe.study.run.processes import PATIENCE, BusyError, held, interrupted_by_signals
from sb3_moe.study.spec.config import CellConfig, completed

if TYPE_CHECKING:
    from sb3_moe.study.run.engine import Engine
    from sb3_moe.study.run.view import LiveView

POLL_SECONDS = 0.3


class ChangedConfigError(ValueError):
    """A folder holds a run of another configuration."""


class Job(NamedTuple):
    """A run, its folder, and what the folder held when last looked at."""

    cell: CellConfig
    folder: CellFolder
    state: State


def survey(cells: Sequence[CellConfig], root: Path) -> list[Job]:
    """Look at the folder of every run.

    :raises ValueError: if ``root`` is no folder
    """
    if root.exists() and not root.is_dir():
        raise ValueError(f"`out` must be a folder, got {root}, which is a file")
    folders = [CellFolder(root / "cells" / cell.name) for cell in cells]
    return [Job(cell, folder, folder.state()) for cell, folder in zip(cells, folders, strict=True)]


def changes(job: Job) -> list[str]:
    """Say, a line each, how a folder's configuration differs from that of its run.

    One in which the run starts anew has no results that could be mixed up, so that it may differ.
    """
    status = job.state.status
    if status in ("missing", "damaged") or (status == "failed" and not job.folder.checkpoints()):
        return []
    try:
        found = job.folder.config().get("cell", {})
    except ValueError:  # it failed before it could write one
        return []
    return differences(_wherever_it_lies(completed(found)), _wherever_it_lies(job.cell.to_dict()))


def _wherever_it_lies(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the folder of the model that a run begins with.

    A study may be looked at in another place; whether the file is the same its checksum says.
    """
    start = cell["architecture"]["start_from"]
    if not start or not start["model"]:
        return dict(cell)
    named = {**start, "model": PurePath(start["model"]).name}
    return {**cell, "architecture": {**cell["architecture"], "start_from": named}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say, a line each, what differs between two nested dicts of plain values."""
    lines = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines


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
    """List what is to be run; runs that failed or are damaged only when asked to."""
    wanted = {"missing", "interrupted"} | ({"failed", "damaged"} if retry else set())
    return [job for job in jobs if job.state.status in wanted]


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second study out of a folder; what tells this process to end, interrupts it.

    :raises BusyError: if one is at work there
    """
    with held(root), interrupted_by_signals():
        yield


def run(jobs: Sequence[Job], engine: Engine, view: LiveView) -> None:
    """Run jobs to their end, as many at a time as the engine takes.

    :param jobs: in the order in which they start
    :param engine: where they run
    :param view: told of each start and end, and of the progress in between
    """
    waiting = list(jobs)
    running: dict[str, Job] = {}
    while waiting or running:
        for lost in _without_start(waiting, running):
            waiting.remove(lost)
            view.ended(lost, State("missing", f"{lost.cell.start}, its start, is not done"))
        ready = [job for job in waiting if _has_start(job)]
        for job in ready[: max(0, engine.capacity - len(running))]:
            waiting.remove(job)
            view.started(job)
            try:
                _make_ready(job)
            except BusyError as error:
                view.ended(job, State(job.state.status, str(error)))
                continue
            engine.start(job.cell, job.folder.path)
            running[job.cell.name] = job
        for name, ending in engine.ended().items():
            job = running.pop(name)
            state = job.folder.state()
            explained = state.status in ("done", "failed") or not ending
            view.ended(job, state if explained else State(state.status, ending))
        view.refresh(list(running.values()))
        time.sleep(POLL_SECONDS)


def _make_ready(job: Job) -> None:
    """Forget what went wrong in a run that failed or is damaged, right before it runs again."""
    if job.state.status in ("failed", "damaged"):
        with held(job.folder.path, PATIENCE):
            job.folder.make_ready()


def _has_start(job: Job) -> bool:
    """Say whether the run that a job begins with, if there is one, is done."""
    start = job.cell.start
    return start is None or (job.folder.path.parent / start / "done.json").is_file()


def _without_start(waiting: Sequence[Job], running: Mapping[str, Job]) -> list[Job]:
    """List the jobs that wait for a run that nobody will finish."""
    names = {*running, *(job.cell.name for job in waiting)}
    return [job for job in waiting if job.cell.start not in names and not _has_start(job)]
