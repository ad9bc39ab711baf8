"""What the commands of ``sb3-moe study`` do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sb3_moe.study.engine import Engine, child_environment, environment
from sb3_moe.study.folder import read_json, write_json
from sb3_moe.study.grid import StudyConfig
from sb3_moe.study.provenance import provenance
from sb3_moe.study.random_policy import random_returns
from sb3_moe.study.runner import Job, locked, refuse_changes, run, survey, unfinished
from sb3_moe.study.speeds import measured_speeds
from sb3_moe.study.view import LiveView

#: Where, in a study's folder, processes leave each other what jax has compiled.
CACHE = ".jax"

#: A regime, and its order of games: empty when they are interleaved.
Setting = tuple[str, tuple[str, ...]]


def plan(study: StudyConfig, root: Path, console: Console, processes: int | None) -> int:
    """Print what would run, and how long it would take."""
    jobs = survey(study.cells(), root)
    console.print(_grid_table(jobs))
    left = [job for job in jobs if job.state.status != "done"]
    console.print(f"{len(jobs)} cells, {len(jobs) - len(left)} done, folder {root}")
    if not left:
        return 0
    processes = processes or os.cpu_count() or 1
    speeds = measured_speeds(jobs)
    for name, speed in speeds.items():
        console.print(f"  {name}: {speed:,.0f} steps/s, measured, one process")
    seconds = sum(job.cell.total_steps / speeds[job.cell.architecture.name] for job in left)
    estimate = timedelta(seconds=round(seconds / min(processes, len(left))))
    console.print(f"about {estimate} with {processes} processes, evaluation included")
    return 0


def status(study: StudyConfig, root: Path, console: Console) -> int:
    """Print what the folders hold; 1 if one failed or is damaged."""
    jobs = survey(study.cells(), root)
    counts = Counter(job.state.status for job in jobs)
    for job in jobs:
        if job.state.status in ("failed", "damaged"):
            console.print(f"{job.folder.path}: {job.state.status}: {job.state.reason}")
        elif job.state.status == "interrupted":
            steps = job.folder.live().get("steps", 0)
            console.print(
                f"{job.folder.path}: interrupted at {steps:,} of {job.cell.total_steps:,} steps"
            )
    console.print(", ".join(f"{count} {name}" for name, count in counts.items()))
    if counts["failed"] or counts["damaged"]:
        console.print("run them again with: run --retry")
        return 1
    return 0


def run_study(
    study: StudyConfig,
    root: Path,
    console: Console,
    make_engine: Callable[[Path], Engine],
    retry: bool = False,
) -> int:
    """Run what is missing, then write the report; 1 if a cell failed."""
    with locked(root):
        jobs = survey(study.cells(), root)
        refuse_changes(jobs)
        todo = unfinished(jobs, retry)
        # First of all: Ray starts by forks, which jax, once it is loaded, does not bear.
        engine = make_engine(root) if todo else None
        try:
            prepare(study, root)
            if engine is not None:
                with LiveView(todo, console) as view:
                    run(todo, engine, view)
        except KeyboardInterrupt:
            console.print(f"stopped; what is finished stays in {root}: run again to go on")
            raise
    if any(job.state.status == "done" for job in survey(study.cells(), root)):
        report(study, root, console)
    return status(study, root, console)


def prepare(study: StudyConfig, root: Path) -> None:
    """Write down the study, and measure the random policy's level once."""
    write_json(root / "study.json", {"study": study.to_dict(), **provenance()})
    path = root / "random.json"
    known = read_json(path) if path.exists() else {}
    if list(known) != list(study.games):
        with environment(child_environment(root / CACHE)):
            measured = random_returns(study.games, study.random_episodes)
        write_json(path, {game: np.round(r, 6).tolist() for game, r in measured.items()})


def report(study: StudyConfig, root: Path, console: Console, to: Path | None = None) -> int:
    """Write the report from what is done."""
    from sb3_moe.study.report import write_report

    page = write_report(study, root, to)
    console.print(f"report: {page}")
    return 0


def _grid_table(jobs: list[Job]) -> Table:
    """Count the cells of each architecture, a row each, in each regime and order."""
    settings = list(dict.fromkeys(map(_setting, jobs)))
    names = [_setting_name(setting, settings) for setting in settings]
    # The games' names are too long for the columns.
    orders = [
        f"{name}: {', then '.join(order)}"
        for name, (_, order) in zip(names, settings, strict=True)
        if order
    ]
    table = Table(title="cells done / all", caption="\n".join(orders), caption_justify="left")
    table.add_column("architecture", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    rows: dict[str, list[Job]] = {}
    for job in jobs:
        rows.setdefault(job.cell.architecture.name, []).append(job)
    for architecture, row in rows.items():
        cells = ([job for job in row if _setting(job) == setting] for setting in settings)
        table.add_row(architecture, *map(_done, cells))
    return table


def _setting(job: Job) -> Setting:
    return job.cell.regime, job.cell.order


def _setting_name(setting: Setting, settings: list[Setting]) -> str:
    """Number the orders of a regime."""
    regime, order = setting
    alike = [other for other in settings if other[0] == regime]
    return f"{regime} {alike.index(setting) + 1}" if order else regime


def _done(jobs: list[Job]) -> str:
    return f"{sum(job.state.status == 'done' for job in jobs)}/{len(jobs)}"
