"""What the commands of ``sb3-moe study`` do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from heapq import heapreplace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

from sb3_moe.saving.files import check_writable, read_json, write_json
from sb3_moe.study.claims import load_claims
from sb3_moe.study.report.replays import write_replays
from sb3_moe.study.report.results import check_level
from sb3_moe.study.report.writing import check_report_folder, report_folder, write_report
from sb3_moe.study.run.engine import (
    Engine,
    LocalEngine,
    RayEngine,
    SlurmEngine,
    check_processes,
    child_environment,
    environment,
)
from sb3_moe.study.run.jobs import Job, locked, refuse_changes, run, survey, unfinished
from sb3_moe.study.run.processes import is_held
from sb3_moe.study.run.provenance import provenance
from sb3_moe.study.run.random_policy import random_returns, read_returns
from sb3_moe.study.run.rehearsal import Pace, check_networks, past_pace, rehearsed_pace
from sb3_moe.study.run.tuning import chosen, runs_of, tune
from sb3_moe.study.run.view import LiveView
from sb3_moe.study.spec import grid
from sb3_moe.study.spec.algorithms import algorithm_class
from sb3_moe.study.spec.config import CellConfig, check_device
from sb3_moe.study.spec.grid import StudyConfig
from sb3_moe.vec_env.evaluating import is_told_masks

#: Where, in a study's folder, processes leave each other what jax has compiled.
CACHE = ".jax"
TRAINED = "being trained"
# Seconds of training that `plan` takes in all, and of each network at least.
REHEARSAL, SHORTEST = 20.0, 1.0


def say(text: str) -> None:
    """Print text as it is: paths and reasons may hold brackets, which rich takes for markup."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def schema(*, table: bool = False) -> int:
    """Print the JSON schema of a study's file, or the docs' table of its entries."""
    print(grid.table() if table else json.dumps(grid.schema(), indent=1))
    return 0


def status(study: StudyConfig, root: Path) -> int:
    """Print what the folders hold.

    :return: 1 if one failed, is damaged or is of another configuration
    """
    jobs = survey(runs_of(study, root), root)
    counts = Counter(map(_status, jobs))
    for job in jobs:
        if job.state.status not in ("done", "missing"):
            say(f"{job.folder.path}: {_standing(job)}")
    say(", ".join(f"{count} {name}" for name, count in counts.items()))
    wrong = counts["failed"] + counts["damaged"]
    if wrong:
        say("run those that failed or are damaged again with: run --retry")
    refuse_changes(jobs)
    return 1 if wrong else 0


def _standing(job: Job) -> str:
    """Say how far a run is, and what is wrong with it."""
    status, reason = _status(job), job.state.reason
    if job.state.status == "interrupted":
        status += f" at {job.folder.live().get('steps', 0):,} of {job.cell.total_steps:,} steps"
        if not status.startswith(TRAINED):
            status += f", goes on from {job.folder.goes_on_at():,}"
    return f"{status}: {reason}" if reason else status


def _status(job: Job) -> str:
    """Give a run's status; one that seems interrupted may be at work."""
    at_work = job.state.status == "interrupted" and is_held(job.folder.path)
    return TRAINED if at_work else job.state.status


def engine_maker(options: Any, device: str) -> Callable[[Path], Engine]:
    """Give what makes the engine that a command line asks for, in a study's folder.

    :param options: of ``sb3-moe study run``
    :param device: of the runs
    :raises ValueError: if options are another engine's, or runs would not find their device
    """
    others = {"local": ("address", "cpus", "gpus", "slurm"), "ray": ("processes", "slurm")}
    for name in others.get(options.engine, ("processes", "address")):
        if value := getattr(options, name):
            raise ValueError(
                f"`--{name}` must be left out with `--engine {options.engine}`, got {value}"
            )
    resources = options.cpus or 1.0, options.gpus or 0.0
    if options.engine == "local":
        check_device(device, here=True)
        processes = check_processes(options.processes)
        return lambda root: LocalEngine(processes, root / CACHE)
    if device.startswith("cuda") and not options.gpus:
        raise ValueError(
            "`--gpus` must be above 0 where `device` is cuda, since runs that ask for no GPU are "
            f"shown none, got {options.gpus} and {device}"
        )
    if options.engine == "ray":
        return lambda root: RayEngine(options.address, *resources)
    pairs = (each.partition("=") for each in options.slurm)
    parameters = {name: yaml.safe_load(value) for name, _, value in pairs}
    return lambda root: SlurmEngine(root / ".slurm", *resources, **parameters)


def run_study(
    study: StudyConfig,
    root: Path,
    make_engine: Callable[[Path], Engine],
    retry: bool = False,
    replays: bool = False,
) -> int:
    """Run what is missing, then write the report; 1 if a run is not done at the end.

    :param make_engine: makes what the runs are trained on, given the study's folder
    :param retry: run again what failed or is damaged
    :param replays: with a page on which each network plays
    :raises ValueError: if a claim is wrong, a network can't be built, or a folder was made by
        another configuration
    :raises BusyError: if another process runs the study in the folder
    """
    check_claims(study)
    check_writable(root)
    check_report_folder(root / "report", "out")

    engines: list[Engine] = []

    def train(jobs: Sequence[Job]) -> None:
        todo = unfinished(jobs, retry)
        if todo:
            # First of all: Ray starts by forks, which jax, once it is loaded, does not bear.
            engines.extend([] if engines else [make_engine(root)])
            rehearse([job.cell for job in todo], root)
            prepare(study, root)
            with LiveView(todo, Console()) as view:
                run(todo, engines[0], view)

    with locked(root):
        refuse_changes(survey(runs_of(study, root), root))
        try:
            if chosen(study, root).tune is not None:
                tune(study, root, train)
            found = chosen(study, root)
            jobs = []
            if found.tune is None:
                train(survey(found.cells(), root))
                prepare(study, root)
                jobs = survey(found.cells(), root)
        except KeyboardInterrupt:
            say(f"stopped; what is finished stays in {root}: run again to go on")
            raise
        finally:
            for engine in engines:
                engine.stop()
    states = {job.state.status for job in jobs}
    if "done" in states:
        report(study.only(()), root, replays=replays)
    status(study, root)
    return 0 if states == {"done"} else 1


def check_claims(study: StudyConfig) -> None:
    """Read the claims, so that what is wrong with them shows before anything is run.

    Groups without a run, and measures without a value, are only named: several studies may share a
    file of claims.

    :raises ValueError: naming the claim
    """
    if study.claims is not None:
        claims = load_claims(study.claims)
        claims.check_tasks(study.games)
        cells = study.only(()).cells()
        for line in [*claims.without_runs(cells), *claims.without_values(cells)]:
            say(line)


def prepare(study: StudyConfig, root: Path) -> None:
    """Write down the study, and measure the random policy's level once."""
    path, masked = root / "random.json", is_told_masks(algorithm_class(study.algorithm))
    try:
        last = read_json(root / "study.json")
        if masked and not last.get("random_masked"):
            raise ValueError(f"{path.name} must be of a random policy that keeps to masks")
        check_level(study, last)
        read_returns(path, study.games, study.random_episodes)
    except ValueError:  # not there, damaged, or of what the study was before
        with environment(child_environment(root / CACHE)):
            measured = random_returns(
                study.games, study.random_episodes, algorithm=study.algorithm, **study.world
            )
        write_json(path, {game: np.round(r, 6).tolist() for game, r in measured.items()})
    # After the level, since it says which environments that is of.
    said = {"study": chosen(study, root).to_dict(), "random_masked": masked, **provenance()}
    write_json(root / "study.json", said)


def rehearse(cells: Sequence[CellConfig], root: Path) -> None:
    """Build each network that will be trained, where a mistake costs seconds.

    :raises ValueError: naming the architecture that can't be built
    """
    with environment(child_environment(root / CACHE)):
        check_networks(cells)


def report(
    study: StudyConfig,
    root: Path,
    to: Path | None = None,
    *,
    replays: bool = False,
    partial: bool = False,
) -> int:
    """Write the report from what is done.

    :param replays: with a page on which each network plays
    :param partial: with what runs have that aren't done
    """
    study = chosen(study, root)
    if replays:
        report_folder(root, to)  # where a mistake costs nothing
        for line in write_replays(study, root, to or root / "report", root / CACHE):
            say(line)
    say(f"report: {write_report(study, root, to, partial=partial)}")
    return 0


def plan(study: StudyConfig, root: Path, processes: int | None) -> int:
    """Print what would run, and how long it would take.

    Runs that are done say how fast their network trains; one without any trains for a moment.

    :raises ValueError: if a claim or the number of processes is wrong, a folder was made by another
        configuration, or a network can't be built
    """
    check_claims(study)
    processes = check_processes(processes)
    jobs = survey(runs_of(study, root), root)
    refuse_changes(jobs)
    left = [job for job in jobs if job.state.status != "done"]
    say(f"{len(jobs)} runs, {len(jobs) - len(left)} done, folder {root}")
    networks = {_network(job): _without_missing_start(job.cell) for job in left}
    if not networks:
        return 0
    rehearse(list(networks.values()), root)
    paces = {_network(job): pace for job in jobs if (pace := past_pace(job)) is not None}
    untried = {name: cell for name, cell in networks.items() if name not in paces}
    seconds = max(REHEARSAL / max(len(untried), 1), SHORTEST)
    with environment(child_environment(root / CACHE)):
        for name, cell in track(untried.items(), "training each network a little"):
            paces[name] = rehearsed_pace(cell, seconds)
    for name in networks:
        runs = sum(_network(job) == name for job in left)
        how = "measured now" if name in untried else "as in runs that are done"
        say(f"  {name}: {runs} runs left, {paces[name].rate:,.0f} steps/s, one process, {how}")
    free = [0.0] * processes  # when each process is free for the next run
    for job in left:
        heapreplace(free, free[0] + _seconds(job, paces[_network(job)]))
    total = timedelta(seconds=round(max(free)))
    say(f"about {total} with {processes} processes, evaluation included")
    return 0


def _network(job: Job) -> str:
    """Name a run's network, whatever value of it is tried."""
    return job.cell.architecture.name.partition("@")[0]


def _seconds(job: Job, pace: Pace) -> float:
    return pace.start + (job.cell.total_steps - job.folder.goes_on_at()) / pace.rate


def _without_missing_start(cell: CellConfig) -> CellConfig:
    """Let a network begin anew where what it is to begin with isn't there yet, and say so."""
    start = cell.architecture.start_from
    if start is None or start.model is None or Path(start.model).exists():
        return cell
    say(f"{cell.architecture.name} begins with {start.model}, which isn't there yet")
    return replace(cell, architecture=replace(cell.architecture, start_from=None))
