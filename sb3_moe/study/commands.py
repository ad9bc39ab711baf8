"""What the commands of ``sb3-moe study`` do."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch as th
import yaml
from rich.console import Console
from rich.progress import track

from sb3_moe.saving.files import check_writable, write_json
from sb3_moe.study import preparing
from sb3_moe.study.config import StudyConfig, load_study
from sb3_moe.study.config import schema as schema_of_a_study
from sb3_moe.study.engine import (
    Engine,
    LocalEngine,
    RayEngine,
    SlurmEngine,
    check_processes,
    run_jobs,
    unfinished,
    variables,
)
from sb3_moe.study.folder import Job, held, is_held, refuse_changes, steps_in, survey
from sb3_moe.study.judging import load_claims, missing
from sb3_moe.study.report import check_report_folder, write_replays, write_report
from sb3_moe.study.results import imagined
from sb3_moe.study.training import versions

if TYPE_CHECKING:
    from sb3_moe_cli import Plan, Report, Run, Schema, Status, StudyOptions

# Seconds of training that `plan` takes in all, and of each network at least.
REHEARSAL, SHORTEST = 12.0, 1.0


def say(text: str) -> None:
    """Print text as it is: paths and reasons may hold brackets, which rich takes for markup."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def read(options: StudyOptions) -> tuple[StudyConfig, Path]:
    """Read the study, with what the command line changes in it, and give its folder."""
    changes = {"seeds": options.seeds, "steps_per_task": options.steps_per_task}
    only = options.only and list(options.only)
    study = load_study(options.study, options.architecture, only=only, **changes)
    root = options.out or Path("runs") / study.name
    os.environ.update(variables(root) | os.environ)  # which the processes of runs inherit
    return study, root


def schema(options: Schema) -> int:
    """Print the JSON schema of a study's file."""
    print(json.dumps(schema_of_a_study(), indent=1))
    return 0


def status(options: Status) -> int:
    """Print what the folders hold."""
    return show_status(*read(options))


def show_status(study: StudyConfig, root: Path) -> int:
    """Print what the folders hold.

    :return: 1 if one failed, is damaged or is of another configuration
    """
    jobs = survey(preparing.all_runs(study, root), root)
    counts = Counter[str]()
    for job in jobs:
        word, reason = str(job.state.status), job.state.reason
        if word == "interrupted":
            done = f"at {steps_in(job.folder.last_logged()):,} of {job.run.total_steps:,} steps"
            reason = f"{done}, goes on from {job.folder.goes_on_at():,} {reason}"
            if is_held(job.folder.path):
                word, reason = "being trained", done
        counts[word] += 1
        if word not in ("done", "missing"):
            say(f"{job.folder.path}: {word}: {reason}")
    say(", ".join(f"{count} {word}" for word, count in counts.items()))
    wrong = counts["failed"] + counts["damaged"]
    if wrong:
        say("run those that failed or are damaged again with: run --retry")
    refuse_changes(jobs)
    return 1 if wrong else 0


def make_engine(options: Run, study: StudyConfig, root: Path) -> Engine:
    """Give the engine that a command line asks for.

    :raises ValueError: if options are another engine's, or runs would not find their device
    """
    others = {"local": ("address", "cpus", "gpus", "slurm"), "ray": ("processes", "slurm")}
    for name in others.get(options.engine, ("processes", "address")):
        if value := getattr(options, name):
            raise ValueError(
                f"`--{name}` must be left out with `--engine {options.engine}`, got {value}"
            )
    if options.engine == "local":
        try:
            th.empty(0, device=study.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"`device` must be one that torch has: {error}") from error
        return LocalEngine(options.processes)
    cpus, gpus = options.cpus or 1.0, options.gpus or 0.0
    if study.device.startswith("cuda") and not options.gpus:
        raise ValueError("`--gpus` must be above 0 where `device` is cuda: runs are shown none")
    if options.engine == "ray":
        return RayEngine(root, options.address, cpus, gpus)
    pairs = (each.partition("=") for each in options.slurm)
    parameters = {name: yaml.safe_load(value) for name, _, value in pairs}
    return SlurmEngine(root, cpus, gpus, **parameters)


def run(options: Run) -> int:
    """Run what is missing, then write the report; 1 if a run is not done at the end.

    :raises ValueError: if a claim is wrong, a network can't be built, or a folder was made by
        another configuration
    :raises BusyError: if another process runs the study in the folder
    """
    study, root = read(options)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C, unless under nohup
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    check_claims(study)
    check_writable(root)
    check_report_folder(root)
    with held(root):
        refuse_changes(survey(preparing.all_runs(study, root), root))
        # Without the folder in which it is installed.
        command = shlex.join(["sb3-moe", *sys.argv[1:]])
        said = {"study": study.to_dict(), "command": command, "versions": versions()}
        write_json(root / "study.json", said)
        # First of all: Ray starts by forks, which jax, once it is loaded, does not bear.
        engine = make_engine(options, study, root)
        try:
            jobs = train(study, root, engine, options.retry)
        except KeyboardInterrupt:
            say(f"stopped; what is finished stays in {root}: run again to go on")
            raise
        finally:
            engine.stop()
    states = {job.state.status for job in jobs}
    if "done" in states:
        write(replace(study, only=()), root, replays=options.replays)
    show_status(study, root)
    return 0 if states == {"done"} else 1


def train(study: StudyConfig, root: Path, engine: Engine, retry: bool = False) -> list[Job]:
    """Run what is missing, those that choose values first, and look at all runs again.

    :param retry: run again what failed or is damaged
    :return: none if a value could not be chosen
    """

    def run_some(jobs: Sequence[Job]) -> None:
        todo = unfinished(jobs, retry)
        if todo:
            preparing.check_networks([job.run for job in todo])
        preparing.measure_random_policy(study, root)
        run_jobs(todo, engine, Console())

    preparing.tune(study, root, run_some)
    found = preparing.chosen(study, root)
    if found.tune is not None:
        return []
    run_some(survey(found.runs(), root))
    return survey(found.runs(), root)


def check_claims(study: StudyConfig) -> None:
    """Read the claims, so that what is wrong with them shows before anything is run.

    Comparisons without a value are only named: several studies may share a file of claims.

    :raises ValueError: naming the claim
    """
    claims = load_claims(study.claims, study.games, study.networks)
    for line in missing(claims, imagined(replace(study, only=()).runs())):
        say(line)


def report(options: Report) -> int:
    """Write the report from what is done."""
    write(*read(options), options.to, replays=options.replays, partial=options.partial)
    return 0


def write(study: StudyConfig, root: Path, to: Path | None = None, **options: bool) -> None:
    """Write the report from what is done.

    :param options: ``replays``: with a page on which each network plays; ``partial``: with the
        curves of runs that are not done
    """
    study, folder = preparing.chosen(study, root), check_report_folder(root, to)
    for line in write_replays(study, root, folder) if options.pop("replays", False) else ():
        say(line)
    say(f"report: {write_report(study, root, folder, **options)}")


def plan(options: Plan) -> int:
    """Print what would run, and how long it would take.

    Runs that are done say how fast their network trains; one without any trains for a moment.

    :raises ValueError: if a claim or the number of processes is wrong, a folder was made by another
        configuration, or a network can't be built
    """
    processes = check_processes(options.processes)
    study, root = read(options)
    check_claims(study)
    jobs = survey(preparing.all_runs(study, root), root)
    refuse_changes(jobs)
    left = [job for job in jobs if job.state.status != "done"]
    say(f"{len(jobs)} runs, {len(jobs) - len(left)} done, folder {root}")
    networks = {_network(job): job.run for job in left}
    if not networks:
        return 0
    rates = {_network(job): rate for job in jobs if (rate := preparing.past_rate(job)) is not None}
    untried = {name: run for name, run in networks.items() if name not in rates}
    seconds = max(REHEARSAL / max(len(untried), 1), SHORTEST)
    th.set_num_threads(1)  # as a run's process has
    preparing.check_networks(list(networks.values()))
    for name, run in track(untried.items(), "training each network a little"):
        rates[name] = preparing.rehearsed_rate(run, seconds)
    for name in networks:
        runs = sum(_network(job) == name for job in left)
        how = "measured now" if name in untried else "as in runs that are done"
        say(f"  {name}: {runs} runs left, {rates[name]:,.0f} steps/s, one process, {how}")
    start = preparing.seconds_to_start()
    each = [start + (j.run.total_steps - j.folder.goes_on_at()) / rates[_network(j)] for j in left]
    total = timedelta(seconds=round(max(*each, sum(each) / processes)))
    say(f"about {total} with {processes} processes, evaluation included")
    return 0


def _network(job: Job) -> str:
    """Name a run's network, whatever value of it is tried."""
    return job.run.architecture.name.partition("@")[0]
