"""How fast cells train on this machine, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sb3_moe.study.engine import LocalEngine
from sb3_moe.study.folder import CellFolder, read_json
from sb3_moe.study.runner import Job, run

ROLLOUTS = 4


class _Silent:
    """A view that shows nothing."""

    def started(self, job: Job) -> None:
        """Ignore it."""

    def ended(self, job: Job, state: object) -> None:
        """Ignore it."""

    def refresh(self, running: Sequence[Job]) -> None:
        """Ignore it."""


def measured_rates(jobs: Sequence[Job]) -> dict[str, float]:
    """Give environment steps per second of each architecture, start and evaluation included.

    Cells that are done say how long they took; an architecture without one trains for a moment in
    a temporary folder.

    :param jobs: cells, one at least of each architecture
    """
    rates: dict[str, float] = {}
    for job in jobs:
        if job.state.status == "done":
            done = read_json(job.folder.path / "done.json")
            attempt = done["last_attempt"]
            rate = (done["steps"] - attempt["start"]) / attempt["seconds"]
            rates.setdefault(job.cell.architecture.name, rate)
    for job in jobs:
        if job.cell.architecture.name not in rates:
            rates[job.cell.architecture.name] = _try(job)
    return rates


def _try(job: Job) -> float:
    """Train a cell for a few rollouts in a process of its own."""
    short = replace(job.cell, steps_per_task=ROLLOUTS * job.cell.rollout, checkpoints=1)
    with tempfile.TemporaryDirectory() as path:
        folder = CellFolder(Path(path) / short.name)
        trial = Job(short, folder, folder.state())
        run([trial], LocalEngine(1, Path(path) / ".jax"), _Silent())
        state = folder.state()
        if state.status != "done":
            raise RuntimeError(f"a trial of {short.name} {state.status}: {state.reason}")
        return float(folder.live()["rate"])
