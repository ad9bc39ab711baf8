"""The cells of a grid with their folders: what is there, what is missing, what has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from sb3_moe.study.run.folder import CellFolder, State
from sb3_moe.study.run.locks import PATIENCE, held
from sb3_moe.study.spec.config import CellConfig, differences, with_what_is_said_since


class ChangedConfigError(ValueError):
    """A folder holds a run of another configuration."""


class Job(NamedTuple):
    """A cell, its folder, and what the folder held when last looked at."""

    cell: CellConfig
    folder: CellFolder
    state: State


def survey(cells: Sequence[CellConfig], root: Path) -> list[Job]:
    """Look at the folder of every cell.

    :raises ValueError: if ``root`` is no folder
    """
    if root.exists() and not root.is_dir():
        raise ValueError(f"`out` must be a folder, got {root}, which is a file")
    folders = [CellFolder(root / "cells" / cell.name) for cell in cells]
    return [Job(cell, folder, folder.state()) for cell, folder in zip(cells, folders, strict=True)]


def changes(job: Job) -> list[str]:
    """Say, a line each, how a folder's configuration differs from that of its cell.

    One in which the run starts anew has no results that could be mixed up, so that it may differ.
    """
    status = job.state.status
    if status in ("missing", "damaged", "unreadable") or (
        status == "failed" and not job.folder.checkpoints()
    ):
        return []
    try:
        found = job.folder.config().get("cell", {})
    except ValueError:  # it failed before it could write one
        return []
    before, now = with_what_is_said_since(found), job.cell.to_dict()
    return differences(_wherever_it_lies(before), _wherever_it_lies(now))


def _wherever_it_lies(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the folder of the model that a cell begins with.

    A study may be looked at in another place; whether the file is the same its checksum says.
    """
    architecture = cell.get("architecture")
    if not isinstance(architecture, Mapping):
        return dict(cell)
    start = architecture.get("start_from")
    if not isinstance(start, Mapping) or not isinstance(start.get("model"), str):
        return dict(cell)
    named = {**start, "model": PurePath(start["model"]).name}
    return {**cell, "architecture": {**architecture, "start_from": named}}


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
    return [job for job in jobs if job.state.status in wanted]


def make_ready(job: Job) -> None:
    """Forget what went wrong in a cell that failed or is damaged, right before it runs again.

    :raises BusyError: if another process is at work in its folder
    """
    if job.state.status in ("failed", "damaged"):
        with held(job.folder.path, PATIENCE):
            job.folder.make_ready()
