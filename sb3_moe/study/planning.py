"""What ``sb3-moe study plan`` does: the cells, what is done, and how long the rest would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from heapq import heapreplace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sb3_moe.study.commands import check_claims, rehearse, say
from sb3_moe.study.run.engine import check_processes
from sb3_moe.study.run.jobs import Job, refuse_changes, survey
from sb3_moe.study.run.speeds import measured_speeds, steps_to_measure
from sb3_moe.study.spec.config import CellConfig
from sb3_moe.study.spec.grid import StudyConfig
from sb3_moe.study.spec.setup import check_device

#: A regime, and its order of games: empty when they are interleaved.
Setting = tuple[str, tuple[str, ...]]


def plan(study: StudyConfig, root: Path, console: Console, processes: int | None) -> int:
    """Print what would run, and how long it would take.

    :raises ValueError: if a claim or the number of processes is wrong, a folder was made by another
        configuration, a network can't be built, or this machine lacks the device on which speeds
        are to be measured
    """
    check_claims(study, console)
    processes = check_processes(processes)
    jobs = survey(study.cells(), root)
    refuse_changes(jobs)
    console.print(_grid_table(jobs))
    left = [job for job in jobs if job.state.status != "done"]
    say(console, f"{len(jobs)} cells, {len(jobs) - len(left)} done, folder {root}")
    if not left:
        return 0
    networks = {job.cell.architecture.name: job.cell for job in left}
    rehearse([_to_rehearse(cell, console) for cell in networks.values()], root)
    steps, measured = sum(map(_steps_left, left)), steps_to_measure(jobs)
    if steps <= measured:
        say(
            console,
            f"{steps:,} steps are left, and measuring speed takes {measured:,}: run them at once",
        )
        return 0
    check_device(study.device, here=True)
    say(console, f"measuring how fast each network trains, by {measured:,} steps ...")
    speeds = measured_speeds(
        jobs,
        lambda name, rate: say(console, f"  {name}: {rate:,.0f} steps/s, measured, one process"),
    )
    if speeds.start is not None:
        say(console, f"  {speeds.start:.0f} s besides for the start of each cell, measured")
    seconds = [
        _steps_left(job) / speeds.rates[job.cell.architecture.name] + (speeds.start or 0.0)
        for job in left
    ]
    estimate = timedelta(seconds=round(_last_end(seconds, processes)))
    say(console, f"about {estimate} with {processes} processes, evaluation included")
    return 0


def _to_rehearse(cell: CellConfig, console: Console) -> CellConfig:
    """Let a network begin anew where what it is to begin with isn't there yet, and say so."""
    start = cell.architecture.start_from
    if start is None or start.model is None or Path(start.model).exists():
        return cell
    say(console, f"{cell.architecture.name} begins with {start.model}, which isn't there yet")
    return replace(cell, architecture=replace(cell.architecture, start_from=None))


def _steps_left(job: Job) -> int:
    """Return the steps that a run has before it, behind the snapshot from which it goes on."""
    return job.cell.total_steps - job.folder.goes_on_at()


def _last_end(seconds: Sequence[float], processes: int) -> float:
    """Say when the last cell ends, each of which begins as soon as a process is free."""
    free = [0.0] * processes
    for each in seconds:
        heapreplace(free, free[0] + each)
    return max(free)


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
    caption = Text("\n".join(orders))
    table = Table(title="cells done / all", caption=caption, caption_justify="left")
    table.add_column("architecture", no_wrap=True)
    for name in names:
        table.add_column(Text(name), justify="right")
    rows: dict[str, list[Job]] = {}
    for job in jobs:
        rows.setdefault(job.cell.architecture.name, []).append(job)
    for architecture, row in rows.items():
        cells = ([job for job in row if _setting(job) == setting] for setting in settings)
        table.add_row(Text(architecture), *map(_done, cells))
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
