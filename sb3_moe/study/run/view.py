"""Show a grid of runs while it runs: a bar for all, a line for each cell at work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sb3_moe.study.run.folder import State
from sb3_moe.study.run.jobs import Job


class View(Protocol):
    """Who is told how a grid of runs goes on."""

    def started(self, job: Job) -> None:
        """Take note of a start."""
        ...

    def ended(self, job: Job, state: State) -> None:
        """Take note of an end."""
        ...

    def refresh(self, running: Sequence[Job]) -> None:
        """Look at what is running."""
        ...


# Seconds between two lines where a display can't be drawn anew, at least; more in a long run.
BETWEEN_LINES = 10.0


class LiveView:
    """A live display on a terminal; elsewhere a line now and then, and for each finished cell.

    :param jobs: all that will run
    :param console: where to
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.console = console
        self._total = sum(job.cell.total_steps for job in jobs)
        self._cells = len(jobs)
        self._begun = time.monotonic()
        self._reached = {job.cell.name: job.folder.goes_on_at() for job in jobs}
        self._at_start = sum(self._reached.values())
        self._given_up = 0
        self._ended_cells = 0
        # What an earlier attempt said last: it may have been beyond the snapshot.
        self._stale: dict[str, dict[str, Any]] = {}
        self._next_line = self._begun
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveView:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def started(self, job: Job) -> None:
        """Note what is said of the cell already; the next refresh shows it."""
        self._stale[job.cell.name] = job.folder.live()

    def ended(self, job: Job, state: State) -> None:
        """Print a line on how a cell ended."""
        self._ended_cells += 1
        live = self._live_of(job)
        if state.status != "done":
            self._given_up += job.cell.total_steps - self._reached[job.cell.name]
        else:
            self._reached[job.cell.name] = job.cell.total_steps
        line = Text(f"[{self._ended_cells}/{self._cells}] {job.cell.name}: {state.status}")
        line.append(f" {_ending(state, live)}", style="dim")
        self.console.print(line, soft_wrap=True)

    def refresh(self, running: Sequence[Job]) -> None:
        """Draw the table anew."""
        table = Table.grid(padding=(0, 1))
        for job in running:
            name, live = job.cell.name, self._live_of(job)
            steps = self._reached[name] = int(live.get("steps", self._reached[name]))
            bar = ProgressBar(total=job.cell.total_steps, completed=steps, width=20)
            table.add_row(Text(name), bar, Text(_summary(live), style="dim"))
        if self.console.is_terminal:
            self._live.update(Group(self._overall(), table))
        else:
            self._say()

    def _live_of(self, job: Job) -> dict[str, Any]:
        """Read how far a cell has come in this attempt; empty if it has not said so yet."""
        live = job.folder.live()
        return {} if live == self._stale.get(job.cell.name) else live

    def _say(self) -> None:
        """Print how far everything is, unless that was just said."""
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + max(BETWEEN_LINES, (now - self._begun) / 20)
            self.console.print(Text("  ".join(self._progress()), style="dim"), soft_wrap=True)

    def _overall(self) -> Table:
        cells, share, rate, clock = self._progress()
        table = Table.grid(padding=(0, 1))
        table.add_row(
            Text(cells, style="bold"),
            ProgressBar(total=max(self._total, 1), completed=self._total - self._left, width=30),
            *map(Text, (share, rate, clock)),
        )
        return table

    @property
    def _left(self) -> int:
        """Steps that are still to be trained."""
        return self._total - sum(self._reached.values()) - self._given_up

    def _progress(self) -> tuple[str, str, str, str]:
        elapsed = time.monotonic() - self._begun
        rate = (sum(self._reached.values()) - self._at_start) / max(elapsed, 1e-9)
        left = self._left / rate if rate > 0 else None
        return (
            f"{self._ended_cells}/{self._cells} cells",
            f"{1 - self._left / max(self._total, 1):.0%}",
            f"{rate:,.0f} steps/s",
            f"{_clock(elapsed)} gone, {_clock(left)} left",
        )


def _ending(state: State, live: dict[str, object]) -> str:
    """Say what came out, or what went wrong."""
    if state.status == "done":
        return _summary(live)
    if state.status in ("failed", "damaged", "unreadable"):
        return state.reason
    return f"{state.reason or 'its process ended early'}; run again to go on"


def _summary(live: dict[str, object]) -> str:
    """Say the rate and the last returns of a cell, and that a report's are other ones."""
    if not live:
        return "starting"
    rate, returns = f"{live.get('rate', 0):,.0f} steps/s", live.get("returns")
    if not isinstance(returns, dict) or not returns:
        return rate
    scores = "  ".join(f"{task} {value:.1f}" for task, value in returns.items())
    return f"{rate}, last training episodes: {scores}"


def _clock(seconds: float | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))
