"""The commands of ``sb3-moe``."""

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
from typing import TYPE_CHECKING, Any

import torch as th
from rich.console import Console
from rich.progress import track

from sb3_moe.saving.files import check_writable, write_json
from sb3_moe.study import config, engine, preparing
from sb3_moe.study.folder import Job, held, is_held, refuse_changes, steps_in, survey
from sb3_moe.study.judging import load_claims, missing
from sb3_moe.study.report import check_report_folder, write_replays, write_report
from sb3_moe.study.results import complete_table
from sb3_moe.study.training import versions

if TYPE_CHECKING:
    import sb3_moe_cli as cli

# Seconds for which `plan` trains: all networks together, and each network at least.
REHEARSAL = 12.0
SHORTEST = 1.0


def read(options: cli.StudyOptions) -> tuple[config.StudyConfig, Path]:
    """Read the study and apply the command line's changes; give the study and its folder."""
    changes = {name: getattr(options, name) for name in ("seeds", "steps_per_task", "only")}
    study = config.load_study(options.study, options.architecture, **changes)
    root = options.out or Path("runs") / study.name
    os.environ.update(engine.variables(root))  # which the processes of runs inherit
    return study, root


def schema(options: cli.Schema) -> int:
    """Print the JSON schema of a study's file."""
    print(json.dumps(config.schema(), indent=1))
    return 0


def status(options: cli.Status) -> int:
    """Print the state of a study's runs."""
    return show_status(*read(options))


def show_status(study: config.StudyConfig, root: Path) -> int:
    """Print the state of a study's runs.

    :return: 1 if a run failed or is damaged, else 0
    :raises ValueError: if a folder was made by another configuration
    """
    jobs = survey(preparing.all_runs(study, root), root)
    counts = Counter[str]()
    for job in jobs:
        word = str(job.state.status)
        reason = job.state.reason
        if word == "interrupted":
            done = f"at {steps_in(job.folder.last_logged()):,} of {job.run.total_steps:,} steps"
            reason = f"{done}, goes on from {job.folder.goes_on_at():,} {reason}"
            if is_held(job.folder.path):
                word = "being trained"
                reason = done
        counts[word] += 1
        if word not in ("done", "missing"):
            print(f"{job.folder.path}: {word}: {reason}")
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    wrong = counts["failed"] + counts["damaged"]
    if wrong:
        print("run those that failed or are damaged again with: run --retry")
    refuse_changes(jobs)
    return 1 if wrong else 0


def make_engine(options: cli.Run, study: config.StudyConfig, root: Path) -> engine.Engine:
    """Give the engine that a command line asks for.

    :raises ValueError: if an option is of another engine, or runs would not find their device
    """
    others = {"local": ("address", "cpus", "gpus", "slurm"), "ray": ("processes", "slurm")}
    for name in others.get(options.engine, ("address",)):
        if value := getattr(options, name):
            raise ValueError(
                f"`--{name}` must be left out with `--engine {options.engine}`, got {value}"
            )
    if options.engine == "local":
        try:
            th.empty(0, device=study.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"`device` must be one that torch has: {error}") from error
        return engine.LocalEngine(options.processes)
    cpus = options.cpus or 1.0
    gpus = options.gpus or 0.0
    if study.device.startswith("cuda") and not options.gpus:
        raise ValueError("`--gpus` must be above 0 where `device` is cuda: runs would see no GPU")
    if options.engine == "ray":
        return engine.RayEngine(root, options.address, cpus, gpus)
    pairs = (each.partition("=") for each in options.slurm)
    parameters = {name: _slurm_value(text) for name, _, text in pairs}
    return engine.SlurmEngine(root, cpus, gpus, options.processes, **parameters)


def _slurm_value(text: str) -> Any:
    """Read a number or another value of JSON; other texts, such as times, stay as they are."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def run(options: cli.Run) -> int:
    """Train the runs that are not done, then write the report.

    :return: 1 if a run is not done at the end, else 0
    :raises ValueError: if a claim is wrong, a network can't be built, or a folder was made by
        another configuration
    :raises BusyError: if another process runs the study in the folder
    """
    study, root = read(options)
    for number in (signal.SIGTERM, signal.SIGHUP):  # stop as Ctrl-C does, unless nohup ignores them
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    check_claims(study)
    check_writable(root)
    check_report_folder(root)
    with held(root):
        refuse_changes(survey(preparing.all_runs(replace(study, only=()), root), root))
        # The program's name without the folder in which it is installed.
        command = shlex.join(["sb3-moe", *sys.argv[1:]])
        said = {"study": study.to_dict(), "command": command, "versions": versions()}
        write_json(root / "study.json", said)
        # Before jax is loaded: Ray starts processes by fork, which can hang once jax is loaded.
        where = make_engine(options, study, root)
        try:
            jobs = train(study, root, where, options.retry)
        except KeyboardInterrupt:
            print(f"stopped; what is finished stays in {root}: run again to go on")
            raise
        finally:
            where.stop()
    states = {job.state.status for job in jobs}
    if "done" in states:
        write(replace(study, only=()), root, replays=options.replays)
    show_status(study, root)
    return 0 if states == {"done"} else 1


def train(
    study: config.StudyConfig, root: Path, where: engine.Engine, retry: bool = False
) -> list[Job]:
    """Train the runs that are not done, tuning runs first, and look at all folders again.

    :param retry: also run again those that failed or are damaged
    :return: all runs of the study; none if a value could not be chosen
    """

    def run_some(jobs: Sequence[Job]) -> None:
        todo = engine.unfinished(jobs, retry)
        if todo:
            preparing.check_networks([job.run for job in todo])
        preparing.measure_random_policy(study, root)
        engine.run_jobs(todo, where, Console())

    if not preparing.tune(study, root, run_some):
        return []
    found = preparing.chosen(study, root)
    run_some(survey(found.runs(), root))
    return survey(found.runs(), root)


def check_claims(study: config.StudyConfig) -> None:
    """Read the claims, so that an error in them shows before anything is run.

    Comparisons for which no run gives a value are only printed: several studies may share a file
    of claims.

    :raises ValueError: naming the claim
    """
    claims = load_claims(study.claims, study.games)
    for line in missing(claims, complete_table(replace(study, only=()).runs())):
        print(line)


def report(options: cli.Report) -> int:
    """Write the report from the runs that are done."""
    write(*read(options), options.to, replays=options.replays, partial=options.partial)
    return 0


def write(study: config.StudyConfig, root: Path, to: Path | None = None, **options: bool) -> None:
    """Write the report from the runs that are done.

    :param options: ``replays``: with a page for each network on which it plays; ``partial``: with
        the curves of runs that are not done
    """
    study = preparing.chosen(study, root)
    folder = check_report_folder(root, to)
    for line in write_replays(study, root, folder) if options.pop("replays", False) else ():
        print(line)
    print(f"report: {write_report(study, root, folder, **options)}")


def plan(options: cli.Plan) -> int:
    """Print what would run, and how long it would take.

    A network's speed is taken from its runs that are done; one that has none yet is trained for a
    moment.

    :raises ValueError: if a claim or the number of processes is wrong, a folder was made by another
        configuration, or a network can't be built
    """
    processes = engine.check_processes(options.processes)
    study, root = read(options)
    check_claims(study)
    jobs = survey(preparing.all_runs(study, root), root)
    refuse_changes(jobs)
    left = [job for job in jobs if job.state.status != "done"]
    print(f"{len(jobs)} runs, {len(jobs) - len(left)} done, folder {root}")
    networks = {_network(job): job.run for job in left}
    if not networks:
        return 0
    rates = {_network(job): rate for job in jobs if (rate := preparing.past_rate(job)) is not None}
    untried = {name: run for name, run in networks.items() if name not in rates}
    seconds = max(REHEARSAL / max(len(untried), 1), SHORTEST)
    th.set_num_threads(1)  # as in a run's process
    preparing.check_networks(list(networks.values()))
    for name, run in track(untried.items(), "training each network a little"):
        rates[name] = preparing.rehearsed_rate(run, seconds)
    for name in networks:
        runs = sum(_network(job) == name for job in left)
        how = "measured now" if name in untried else "as in runs that are done"
        print(f"  {name}: {runs} runs left, {rates[name]:,.0f} steps/s, one process, {how}")
    each = [(j.run.total_steps - j.folder.goes_on_at()) / rates[_network(j)] for j in left]
    total = timedelta(seconds=round(max(*each, sum(each) / processes)))
    print(f"about {total} with {processes} processes, with evaluation, without report and replays")
    return 0


def _network(job: Job) -> str:
    """Give the name of a run's network, without the value that a tuning run tries."""
    return job.run.architecture.name.partition("@")[0]
