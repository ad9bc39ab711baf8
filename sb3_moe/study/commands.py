"""What the commands of ``sb3-moe study`` do."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from heapq import heapreplace
from pathlib import Path
from typing import TYPE_CHECKING

import torch as th
import yaml
from rich.console import Console
from rich.progress import track

from sb3_moe.saving.files import check_writable, write_json
from sb3_moe.study import grid
from sb3_moe.study.claims import load_claims
from sb3_moe.study.config import RunConfig
from sb3_moe.study.engine import (
    Engine,
    LocalEngine,
    RayEngine,
    SlurmEngine,
    check_processes,
    child_environment,
    environment,
)
from sb3_moe.study.folder import Job, held, is_held, refuse_changes, steps_in, survey
from sb3_moe.study.grid import StudyConfig, load_study
from sb3_moe.study.jobs import run_jobs, unfinished
from sb3_moe.study.judging import missing
from sb3_moe.study.preparing import (
    Pace,
    check_networks,
    measure_random_policy,
    past_pace,
    rehearsed_pace,
)
from sb3_moe.study.report import check_report_folder, write_replays, write_report
from sb3_moe.study.results import planned_table
from sb3_moe.study.training import versions
from sb3_moe.study.tuning import all_runs, chosen, tune

if TYPE_CHECKING:
    from sb3_moe_cli import Plan, Report, Run, Schema, Status, StudyOptions

# Seconds of training that `plan` takes in all, and of each network at least.
REHEARSAL, SHORTEST = 20.0, 1.0


def say(text: str) -> None:
    """Print text as it is: paths and reasons may hold brackets, which rich takes for markup."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def read(options: StudyOptions) -> tuple[StudyConfig, Path]:
    """Read the study, with what the command line changes in it, and give its folder."""
    study = load_study(
        options.study,
        options.architecture,
        seeds=options.seeds,
        steps_per_task=options.steps_per_task,
        only=options.only and list(options.only),
    )
    return study, options.out or Path("runs") / study.name


def schema(options: Schema) -> int:
    """Print the JSON schema of a study's file, or the docs' table of its entries."""
    print(grid.table() if options.table else json.dumps(grid.schema(), indent=1))
    return 0


def status(options: Status) -> int:
    """Print what the folders hold.

    :return: 1 if one failed, is damaged or is of another configuration
    """
    return show_status(*read(options))


def show_status(study: StudyConfig, root: Path) -> int:
    """Print what the folders hold; see :func:`status`."""
    jobs = survey(all_runs(study, root), root)
    counts: Counter[str] = Counter()
    for job in jobs:
        found, reason = job.state
        if found == "interrupted":
            row = job.folder.last_logged()
            reached = f"at {steps_in(row):,} of {job.run.total_steps:,} steps"
            at_work = is_held(job.folder.path)
            goes_on = "" if at_work else f", goes on from {job.folder.goes_on_at():,}"
            reason = f"{reached}{goes_on} {reason}".strip()
        word = "being trained" if found == "interrupted" and at_work else found
        counts[word] += 1
        if found not in ("done", "missing"):
            say(f"{job.folder.path}: {word}: {reason}")
    say(", ".join(f"{count} {word}" for word, count in counts.items()))
    wrong = counts["failed"] + counts["damaged"]
    if wrong:
        say("run those that failed or are damaged again with: run --retry")
    refuse_changes(jobs)
    return 1 if wrong else 0


def engine_maker(options: Run, device: str) -> Callable[[Path], Engine]:
    """Give what makes the engine that a command line asks for, in a study's folder.

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
        processes = check_processes(options.processes)
        try:
            th.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise ValueError(f"`device` must be one that torch has, got {device}: {why}") from error
        return lambda root: LocalEngine(processes, root)
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


def run(options: Run) -> int:
    """Run what is missing, then write the report; 1 if a run is not done at the end."""
    study, root = read(options)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C, unless under nohup
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    make_engine = engine_maker(options, study.device)
    return run_study(study, root, make_engine, options.retry, options.replays)


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
    check_report_folder(root)
    engines: list[Engine] = []

    def train(jobs: Sequence[Job]) -> None:
        todo = unfinished(jobs, retry)
        if todo:
            # First of all: Ray starts by forks, which jax, once it is loaded, does not bear.
            engines.extend([] if engines else [make_engine(root)])
            check_networks([job.run for job in todo], root)
            measure_random_policy(study, root)
            run_jobs(todo, engines[0], Console())

    with held(root):
        refuse_changes(survey(all_runs(study, root), root))
        said = {"study": study.to_dict(), "command": shlex.join(sys.argv), "versions": versions()}
        write_json(root / "study.json", said)
        try:
            if chosen(study, root).tune is not None:
                tune(study, root, train)
            found = chosen(study, root)
            jobs = []
            if found.tune is None:
                train(survey(found.runs(), root))
                jobs = survey(found.runs(), root)
        except KeyboardInterrupt:
            say(f"stopped; what is finished stays in {root}: run again to go on")
            raise
        finally:
            for engine in engines:
                engine.stop()
    states = {job.state.status for job in jobs}
    if "done" in states:
        measure_random_policy(study, root)
        write(replace(study, only=()), root, replays=replays)
    show_status(study, root)
    return 0 if states == {"done"} else 1


def check_claims(study: StudyConfig) -> None:
    """Read the claims, so that what is wrong with them shows before anything is run.

    Comparisons without a value are only named: several studies may share a file of claims.

    :raises ValueError: naming the claim
    """
    claims = load_claims(study.claims, study.games)
    for line in missing(claims, planned_table(replace(study, only=()).runs())):
        say(line)


def report(options: Report) -> int:
    """Write the report from what is done."""
    write(*read(options), options.to, replays=options.replays, partial=options.partial)
    return 0


def write(
    study: StudyConfig,
    root: Path,
    to: Path | None = None,
    *,
    replays: bool = False,
    partial: bool = False,
) -> None:
    """Write the report from what is done.

    :param replays: with a page on which each network plays
    :param partial: with what runs have that aren't done
    """
    study, folder = chosen(study, root), check_report_folder(root, to)
    for line in write_replays(study, root, folder) if replays else ():
        say(line)
    say(f"report: {write_report(study, root, folder, partial=partial)}")


def plan(options: Plan) -> int:
    """Print what would run, and how long it would take.

    Runs that are done say how fast their network trains; one without any trains for a moment.

    :raises ValueError: if a claim or the number of processes is wrong, a folder was made by another
        configuration, or a network can't be built
    """
    processes = check_processes(options.processes)
    study, root = read(options)
    check_claims(study)
    jobs = survey(all_runs(study, root), root)
    refuse_changes(jobs)
    left = [job for job in jobs if job.state.status != "done"]
    say(f"{len(jobs)} runs, {len(jobs) - len(left)} done, folder {root}")
    networks = {_network(job): _without_missing_start(job.run) for job in left}
    if not networks:
        return 0
    check_networks(list(networks.values()), root)
    paces = {_network(job): pace for job in jobs if (pace := past_pace(job)) is not None}
    untried = {name: run for name, run in networks.items() if name not in paces}
    seconds = max(REHEARSAL / max(len(untried), 1), SHORTEST)
    with environment(child_environment(root)):
        for name, run in track(untried.items(), "training each network a little"):
            paces[name] = rehearsed_pace(run, seconds)
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
    return job.run.architecture.name.partition("@")[0]


def _seconds(job: Job, pace: Pace) -> float:
    return pace.start + (job.run.total_steps - job.folder.goes_on_at()) / pace.rate


def _without_missing_start(run: RunConfig) -> RunConfig:
    """Let a network begin anew where what it is to begin with isn't there yet, and say so."""
    start = run.architecture.start_from
    if start is None or start.model is None or Path(start.model).exists():
        return run
    say(f"{run.architecture.name} begins with {start.model}, which isn't there yet")
    return replace(run, architecture=replace(run.architecture, start_from=None))
