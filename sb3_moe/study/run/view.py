"""How far runs are: a small file that each of them writes, and a display that reads these."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from stable_baselines3.common.callbacks import BaseCallback

from sb3_moe.saving.files import write_json
from sb3_moe.study.run.folder import State
from sb3_moe.study.run.jobs import Job
from sb3_moe.vec_env.tasks import short_names, task_names

# Seconds between two lines where a display can't be drawn anew, at least; more in a long run.
BETWEEN_LINES = 10.0
# Runs that get a bar of their own: a cluster may have hundreds.
MOST_BARS = 16


class Heartbeat(BaseCallback):
    """Write ``live.json`` while a run goes on: steps, rate, and the last returns of each task.

    At the end of a rollout, but not more often than once in so many seconds, and at the end.
    The returns are those that :class:`~sb3_moe.callbacks.TaskRolloutCallback`, which comes before
    it in the list of callbacks, has just logged.

    :param path: of the file
    :param total_steps: of the whole run
    :param seconds: between two times: a rollout off-policy may be a single step
    """

    def __init__(self, path: Path, total_steps: int, seconds: float = 0.5) -> None:
        super().__init__()
        self.path, self.total_steps, self.seconds = path, total_steps, seconds

    def _on_training_start(self) -> None:
        self._begun = self._due = time.monotonic()
        self._last_returns: dict[str, float] = {}
        self._first_step = self.num_timesteps
        names = task_names(self.training_env)
        self._keys = {
            name: f"rollout/{key}/ep_rew_mean"
            for key, name in zip(short_names(names), names, strict=True)
        }

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        values = self.logger.name_to_value
        self._last_returns |= {
            name: round(float(values[key]), 3) for name, key in self._keys.items() if key in values
        }
        if time.monotonic() >= self._due:
            self._write()

    def _on_training_end(self) -> None:
        self._write()

    def _write(self) -> None:
        seconds = time.monotonic() - self._begun
        self._due = time.monotonic() + self.seconds
        rate = (self.num_timesteps - self._first_step) / max(seconds, 1e-9)
        write_json(
            self.path,
            {
                "steps": self.num_timesteps,
                "total_steps": self.total_steps,
                "seconds": round(seconds, 2),
                "rate": round(rate, 1),
                "returns": self._last_returns,
            },
        )


class LiveView:
    """Bars on a terminal; elsewhere a line now and then, and for each run that has ended.

    :param jobs: all that will run
    :param console: where to
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.console = console
        self._runs, self._ended_runs = len(jobs), 0
        self._steps = {job.cell.name: job.cell.total_steps for job in jobs}
        self._reached = {job.cell.name: job.folder.goes_on_at() for job in jobs}
        self._at_start = sum(self._reached.values())
        self._begun = self._next_line = time.monotonic()
        # What an earlier attempt said last: it may have been beyond the snapshot.
        self._stale: dict[str, dict[str, Any]] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(30),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._overall = self._progress.add_task("", total=self._total, note="")

    def __enter__(self) -> LiveView:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    @property
    def _total(self) -> int:
        return max(1, sum(self._steps.values()))

    def started(self, job: Job) -> None:
        """Note what is said of the run already; the next refresh shows it."""
        self._stale[job.cell.name] = job.folder.live()

    def ended(self, job: Job, state: State) -> None:
        """Print a line on how a run ended."""
        name = job.cell.name
        self._ended_runs += 1
        if state.status == "done":
            self._reached[name] = job.cell.total_steps
        else:  # nobody waits for its steps
            self._steps[name] = self._reached[name]
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        why = state.reason or "its process ended early"
        note = {
            "done": _summary(live) if (live := self._live_of(job)) else "",
            "failed": state.reason,
            "damaged": state.reason,
        }.get(state.status, f"{why}; run again to go on")
        line = f"[{self._ended_runs}/{self._runs}] {name}: {state.status} {note}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def refresh(self, running: Sequence[Job]) -> None:
        """Show how far each run is."""
        for job in running:
            name, live = job.cell.name, self._live_of(job)
            self._reached[name] = int(live.get("steps", self._reached[name]))
            if name not in self._bars and len(self._bars) < MOST_BARS:
                total = job.cell.total_steps
                self._bars[name] = self._progress.add_task(escape(name), total=total, note="")
            if name in self._bars:
                self._progress.update(
                    self._bars[name], completed=self._reached[name], note=escape(_summary(live))
                )
        reached, runs = sum(self._reached.values()), f"{self._ended_runs}/{self._runs} runs"
        elapsed = time.monotonic() - self._begun
        rate = (reached - self._at_start) / max(elapsed, 1e-9)
        left = _clock((self._total - reached) / rate) if rate > 0 else "?"
        note = f"{rate:,.0f} steps/s  {_clock(elapsed)} gone, {left} left"
        self._progress.update(
            self._overall, description=runs, completed=reached, total=self._total, note=note
        )
        if not self.console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + max(BETWEEN_LINES, elapsed / 20)
            line = f"{runs}  {reached / self._total:.0%}  {note}"
            self.console.print(line, style="dim", highlight=False, soft_wrap=True)

    def _live_of(self, job: Job) -> dict[str, Any]:
        """Read how far a run has come in this attempt; empty if it has not said so yet."""
        live = job.folder.live()
        return {} if live == self._stale.get(job.cell.name) else live


def _summary(live: dict[str, Any]) -> str:
    """Say the rate and the last returns of a run, and that a report's are other ones."""
    if not live:
        return "starting"
    rate = f"{live.get('rate', 0):,.0f} steps/s"
    scores = "  ".join(f"{task} {value:.1f}" for task, value in live.get("returns", {}).items())
    return f"{rate}, last training episodes: {scores}" if scores else rate


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
