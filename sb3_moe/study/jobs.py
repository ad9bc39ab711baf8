"""Run the jobs of a study, and show how far they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sb3_moe.study.engine import Engine
from sb3_moe.study.folder import PATIENCE, BusyError, Job, State, held, steps_in

POLL_SECONDS = 0.5
# Seconds between two lines where bars can't be drawn, at least; more in a long study.
BETWEEN_LINES = 10.0
# Runs that get a bar of their own: a cluster may have hundreds.
MOST_BARS = 16


def unfinished(jobs: Sequence[Job], retry: bool) -> list[Job]:
    """List what is to be run; runs that failed or are damaged only when asked to."""
    wanted = {"missing", "interrupted"} | ({"failed", "damaged"} if retry else set())
    return [job for job in jobs if job.state.status in wanted]


def run_jobs(jobs: Sequence[Job], engine: Engine, console: Console) -> None:
    """Run jobs to their end, as many at a time as the engine takes.

    :param jobs: in the order in which they start
    :param engine: where they run
    :param console: which is told of each end, and of the progress in between
    """
    waiting = list(jobs)
    running: dict[str, Job] = {}
    view = LiveView(jobs, console)
    with view.progress:
        while waiting or running:
            for lost in _without_start(waiting, running):
                waiting.remove(lost)
                view.ended(lost, State("missing", f"{lost.run.start}, its start, is not done"))
            ready = [job for job in waiting if _has_start(job)]
            for job in ready[: max(0, engine.capacity - len(running))]:
                waiting.remove(job)
                try:
                    _make_ready(job)
                except BusyError as error:
                    view.ended(job, State(job.state.status, str(error)))
                    continue
                engine.start(job.run, job.folder.path)
                running[job.run.name] = job
            for name, why in engine.ended().items():
                job = running.pop(name)
                state = job.folder.state()
                explained = state.status in ("done", "failed") or not why
                view.ended(job, state if explained else State(state.status, why))
            view.refresh(list(running.values()))
            time.sleep(POLL_SECONDS)


def _make_ready(job: Job) -> None:
    """Forget what went wrong in a run that failed or is damaged, right before it runs again."""
    if job.state.status in ("failed", "damaged"):
        with held(job.folder.path, PATIENCE):
            job.folder.make_ready()


def _has_start(job: Job) -> bool:
    """Say whether the run that a job begins with, if there is one, is done."""
    start = job.run.start
    return start is None or (job.folder.path.parent / start / "done.json").is_file()


def _without_start(waiting: Sequence[Job], running: Mapping[str, Job]) -> list[Job]:
    """List the jobs that wait for a run that nobody will finish."""
    names = {*running, *(job.run.name for job in waiting)}
    return [job for job in waiting if job.run.start not in names and not _has_start(job)]


class LiveView:
    """Bars on a terminal; elsewhere a line now and then, and for each run that has ended.

    :param jobs: all that will run
    :param console: where to
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self._console, self._runs, self._ended = console, len(jobs), 0
        self._reached = {job.run.name: job.folder.goes_on_at() for job in jobs}
        self._next_line = self._begun = time.monotonic()
        note = TextColumn("{task.fields[note]}", style="dim")
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(30),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            note,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        total = sum(job.run.total_steps for job in jobs)
        self._all = self.progress.add_task("", total=total, note="")
        self._bars: dict[str, TaskID] = {}

    def ended(self, job: Job, state: State) -> None:
        """Print a line on how a run ended."""
        name, note = job.run.name, state.reason
        self._ended += 1
        self._reached[name] = job.run.total_steps  # nobody waits for what is left
        if name in self._bars:
            self.progress.remove_task(self._bars.pop(name))
        if state.status == "done":
            note = _summary(job.folder.last_logged())
        elif state.status not in ("failed", "damaged"):
            note = f"{note or 'its process ended early'}; run again to go on"
        line = f"[{self._ended}/{self._runs}] {name}: {state.status} {note}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def refresh(self, running: Sequence[Job]) -> None:
        """Show how far each run is."""
        for job in running:
            name, row = job.run.name, job.folder.last_logged()
            self._reached[name] = steps_in(row) or self._reached[name]
            if name not in self._bars and len(self._bars) < MOST_BARS:
                self._bars[name] = self.progress.add_task(escape(name), total=job.run.total_steps)
            if name in self._bars:
                done, note = self._reached[name], escape(_summary(row))
                self.progress.update(self._bars[name], completed=done, note=note)
        done, runs = sum(self._reached.values()), f"{self._ended}/{self._runs} runs"
        self.progress.update(self._all, description=runs, completed=done)
        now = time.monotonic()
        if not self._console.is_terminal and now >= self._next_line:
            self._next_line = now + max(BETWEEN_LINES, (now - self._begun) / 20)
            self._console.print(f"{runs}  {self.progress.tasks[0].percentage:.0f}%", style="dim")


def _summary(row: Mapping[str, Any]) -> str:
    """Say the rate and the last returns of a run, and that a report's are other ones."""
    if not row:
        return "starting"
    returns = [
        f"{key.split('/')[1]} {float(value):.1f}"
        for key, value in row.items()
        if key.startswith("rollout/")
        and key.endswith("/ep_rew_mean")
        and key.count("/") == 2
        and value
    ]
    last = f", last training episodes: {'  '.join(returns)}" if returns else ""
    return f"{row.get('time/fps', '?')} steps/s{last}"
