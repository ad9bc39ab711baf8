"""A first look: dense and mixture-of-experts agents on two MinAtar games, in a few minutes.

``python -m sb3_moe.study.first_run`` trains PPO on the games, interleaved (MTRL) and one after the
other (CRL), and ends with a folder of learning curves, tables, models and a page.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from sb3_moe.saving.files import check_writable
from sb3_moe.study.commands import CACHE, play, prepare, rehearse, say
from sb3_moe.study.exit_status import exit_status
from sb3_moe.study.report.page import number
from sb3_moe.study.report.results import Results, has_scores, load_results
from sb3_moe.study.report.writing import check_report_folder, write_report
from sb3_moe.study.run.engine import LocalEngine
from sb3_moe.study.run.jobs import Job, refuse_changes, survey, unfinished
from sb3_moe.study.run.runner import locked, run
from sb3_moe.study.run.view import LiveView
from sb3_moe.study.spec.architectures import moe_architecture
from sb3_moe.study.spec.config import Architecture, Regime
from sb3_moe.study.spec.grid import StudyConfig
from sb3_moe.study.spec.setup import Evaluation, check_device

ROLLOUT = 64 * 128


@dataclass(frozen=True)
class FirstRun:
    """Train dense and mixture-of-experts agents on MinAtar games, and draw what happened."""

    # Which every network learns in so few steps; Asterix takes millions.
    games: tuple[str, ...] = ("SpaceInvaders", "Breakout")
    """Short names of MinAtar games, or registered Gymnasium ids."""
    steps: int = 20 * ROLLOUT
    """Environment steps per game; rounded up to whole rollouts of 64 x 128."""
    seeds: tuple[int, ...] = (0,)
    """A run of everything for each of them."""
    regimes: tuple[Regime, ...] = ("mtrl", "crl")
    """mtrl: games interleaved; crl: one after the other."""
    placements: tuple[str, ...] = ("none", "big")
    """Where the experts sit: none (dense), middle, final, all, body, big."""
    routers: tuple[str, ...] = ("soft",)
    """What weighs the experts: soft, top_k, task, uniform, random, or package.module:Class."""
    no_op_max: int = 30
    """Most no-ops at the start of a MinAtar episode; 0 as in version 0.1, and for its folders."""
    device: str = "cpu"
    """Of torch."""
    out: Path | None = None
    """The folder; by default a new one under runs/. An earlier one goes on where it stopped."""
    processes: int | None = None
    """Runs at a time, on one thread each; by default as many as the cores that it may use."""
    replays: bool = True
    """End with a page on which each network plays."""

    def study(self) -> StudyConfig:
        """Give the grid of runs."""
        return StudyConfig(
            name="first-run",
            games=self.games,
            regimes=self.regimes,
            architectures=self.architectures(),
            seeds=self.seeds,
            steps_per_task=-(-self.steps // ROLLOUT) * ROLLOUT,
            evaluation=Evaluation(points=5),
            device=self.device,
            no_op_max=self.no_op_max,
        )

    def architectures(self) -> tuple[Architecture, ...]:
        """Give dense once, and every other placement with every router."""
        pairs = [
            (placement, router)
            for placement in self.placements
            for router in (self.routers[:1] if placement == "none" else self.routers)
        ]
        return tuple(moe_architecture(placement, router) for placement, router in pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; give the exit status.

    :param arguments: without the program's name; None for this process's
    """
    options = tyro.cli(FirstRun, prog="python -m sb3_moe.study.first_run", args=arguments)
    return exit_status(lambda: _run(options))


def _run(options: FirstRun) -> int:
    """Look at what is asked for, then train in a folder that nobody else works in."""
    if options.steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {options.steps}")
    root = options.out or Path("runs") / time.strftime("first-run-%Y%m%d-%H%M%S")
    study = options.study()
    check_device(study.device, here=True)
    engine = LocalEngine(options.processes, root / CACHE)
    check_writable(root)
    check_report_folder(root / "report", "out")
    with locked(root):
        return _train(study, root, engine, Console(), options.replays)


def _train(
    study: StudyConfig, root: Path, engine: LocalEngine, console: Console, replays: bool = True
) -> int:
    """Train what is missing, and report, also when stopped."""
    jobs = survey(study.cells(), root)
    refuse_changes(jobs)
    say(console, f"{len(jobs)} runs of {jobs[0].cell.total_steps:,} steps each, into {root}")
    say(console, "getting ready: playing at random, and building each network once ...")
    stopped = False
    try:
        prepare(study, root)
        todo = unfinished(jobs, retry=True)
        if todo:
            rehearse([job.cell for job in todo], root)
        with LiveView(todo, console) as view:
            run(todo, engine, view)
        say(console, "drawing what came out, and playing for the replays: about a minute ...")
        if replays:
            play(study, root, console)
    except KeyboardInterrupt:
        stopped = True
    return _conclude(study, root, console, survey(study.cells(), root), stopped)


def _conclude(
    study: StudyConfig, root: Path, console: Console, jobs: Sequence[Job], stopped: bool
) -> int:
    """Print the table, write the page, and say where everything is: the page last."""
    done = sum(job.state.status == "done" for job in jobs)
    for job in jobs:
        if job.state.status == "failed":
            say(console, f"{job.folder.path} failed: {job.state.reason}")
    if stopped:
        say(
            console,
            f"stopped: {done} of {len(jobs)} runs finished, all that is there stays readable; "
            f"go on with --out {root}",
        )
    if any(job.state.status in ("done", "interrupted") and has_scores(job) for job in jobs):
        console.print(_printed(load_results(study, root, partial=True)))
        say(console, f"models, scores and configurations: {root / 'cells'}")
        say(
            console,
            f"page, with figures and tables beside it: {write_report(study, root, partial=True)}",
        )
    if stopped:
        return 130
    return 0 if done == len(jobs) else 1


def _printed(results: Results) -> Table:
    """Lay out for a terminal what each network reached, mean over seeds and orders."""
    table = Table(title="mean return in the last tenth of each game's training", box=SIMPLE)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    for name in ("regime", "game", "network"):
        table.add_column(name, no_wrap=True)
    for name in ("return", "random", "at end"):
        table.add_column(name, justify="right", no_wrap=True)
    names = ["regime", "task", "architecture"]
    means = results.table.groupby([*names, "measure"], sort=False)["value"].mean().unstack()
    rows: Any = means.dropna(subset="block_end").iterrows()
    for (regime, task, network), row in rows:
        numbers = (row["block_end"], results.random[task], row["final"])
        table.add_row(regime, task, network, *map(number, numbers))
    return table


if __name__ == "__main__":
    sys.exit(main())
