"""``sb3-moe study plan|run|status|report``: the command line of a study."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from sb3_moe.study.commands import CACHE, report, run_study, status
from sb3_moe.study.exit_status import exit_status
from sb3_moe.study.planning import plan
from sb3_moe.study.run.engine import Engine, LocalEngine
from sb3_moe.study.spec.architectures import named_architecture
from sb3_moe.study.spec.config import Architecture
from sb3_moe.study.spec.grid import StudyConfig, load_study
from sb3_moe.study.spec.setup import check_device


@dataclass(frozen=True)
class StudyOptions:
    """Which study, and where."""

    study: tyro.conf.Positional[str] = "smoke"
    """A preset (smoke, paper-small, paper-full) or a YAML file."""
    out: Path | None = None
    """Its folder; by default runs/<name of the study>."""
    seeds: int | None = None
    """How many seeds, in place of the file's."""
    steps_per_task: int | None = None
    """Environment steps per game and visit, in place of the file's."""
    architecture: tuple[str, ...] = ()
    """More columns: `<router>-<placement>`, or your own policy as `package.module:Class`."""
    only: tuple[str, ...] | None = None
    """Only these of its networks, and what they start from: all seeds of one, say, for now."""

    def load(self) -> StudyConfig:
        """Read the study, with what the command line changes in it."""
        study = load_study(self.study)
        changes: dict[str, object] = {}
        if self.seeds is not None:
            changes["seeds"] = tuple(range(self.seeds))
        if self.steps_per_task is not None:
            changes["steps_per_task"] = self.steps_per_task
        if self.architecture:
            added = tuple(_column(name, study.algorithm) for name in self.architecture)
            changes["architectures"] = study.architectures + added
        study = replace(study, **changes)  # type: ignore[arg-type]
        if self.only is None:
            return study
        names = [each.name for each in study.architectures]
        unknown = [name for name in self.only if name not in names]
        if unknown or not self.only:
            raise ValueError(f"`--only` must name networks of the study, {names}, got {unknown}")
        return study.only(self.only)

    def folder(self, study: StudyConfig) -> Path:
        """Give the study's folder."""
        return self.out or Path("runs") / study.name


def _column(name: str, algorithm: str) -> Architecture:
    """Read a name, or a policy class with our task id and nothing else changed."""
    if ":" in name:
        return Architecture(name=name.rpartition(":")[2], policy=name)
    return named_architecture(name, algorithm=algorithm)


@dataclass(frozen=True)
class Plan:
    """Print the cells, the time they would take at a measured rate, and what is done."""

    options: tyro.conf.OmitArgPrefixes[StudyOptions]
    processes: int | None = None
    """Cells at a time; by default as many as the cores that it may use."""


@dataclass(frozen=True)
class Run:
    """Run the cells that are missing, from their last snapshots, and write the report."""

    options: tyro.conf.OmitArgPrefixes[StudyOptions]
    processes: int | None = None
    """Cells at a time, on one thread each; by default as many as the cores that it may use."""
    retry: bool = False
    """Run cells that failed or are damaged again."""
    replays: bool = False
    """In the report, a page on which each network plays: some seconds for each."""
    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or tasks of a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster; by default one found on this machine, else a new one, as with `local`."""
    cpus: float | None = None
    """CPUs per cell on Ray; by default 1."""
    gpus: float | None = None
    """GPUs per cell on Ray, by default none; a fraction lets cells share one."""

    def make_engine(self, root: Path) -> Engine:
        """Start what the cells will run on.

        :param root: the study's folder
        """
        if self.engine == "ray":
            from sb3_moe.study.run.ray_engine import RayEngine

            cpus = 1.0 if self.cpus is None else self.cpus
            return RayEngine(self.address, cpus, self.gpus or 0.0)
        return LocalEngine(self.processes, root / CACHE)


@dataclass(frozen=True)
class Status:
    """Say what each cell's folder holds."""

    options: tyro.conf.OmitArgPrefixes[StudyOptions]


@dataclass(frozen=True)
class Report:
    """Write the page, figures and tables from the cells that are done."""

    options: tyro.conf.OmitArgPrefixes[StudyOptions]
    to: Path | None = None
    """Where to write; by default `report` in the study's folder."""
    replays: bool = False
    """With a page on which each network plays: some seconds for each."""


USAGE = """\
usage: sb3-moe study {plan,run,status,report} ...   a grid of training runs, and its report
       sb3-moe watch MODEL --tasks ...              a page on which an agent plays
       sb3-moe card MODEL --tasks ...               an agent's folder for the Hugging Face Hub
--help after each of these says more."""

Command = (
    Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m sb3_moe.study") -> int:
    """Run a command; give its exit status.

    :param arguments: without the program's name; None for this process's
    :param prog: how the help calls the program
    """
    command = tyro.cli(Command, prog=prog, args=arguments)
    console = Console()
    return exit_status(lambda: _dispatch(command, console))


def _check_numbers(options: object) -> None:
    """Raise unless what a command is given can be counted with.

    :raises ValueError: naming the option as it is written
    """
    for name in ("seeds", "steps_per_task", "processes"):
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise ValueError(f"`--{name.replace('_', '-')}` must be at least 1, got {value}")
    if not isinstance(options, Run):
        return
    if options.cpus is not None and not 0 < options.cpus < math.inf:
        raise ValueError(f"`--cpus` must be above 0, got {options.cpus}")
    if options.gpus is not None and not 0 <= options.gpus < math.inf:
        raise ValueError(f"`--gpus` must be at least 0, got {options.gpus}")
    for name in ("processes",) if options.engine == "ray" else ("address", "cpus", "gpus"):
        value = getattr(options, name)
        if value is not None:
            raise ValueError(
                f"`--{name}` must be left out with `--engine {options.engine}`, which doesn't ask "
                f"for it, got {value}"
            )


def _check_device(command: Run, device: str) -> None:
    """Raise unless cells will find their device.

    :raises ValueError: naming the option or the entry
    """
    if command.engine == "local":
        check_device(device, here=True)
    elif device.startswith("cuda") and not command.gpus:
        raise ValueError(
            "`--gpus` must be above 0 where `device` is cuda, since Ray shows no GPU to cells that "
            f"ask for none, got {command.gpus or 0} and {device}"
        )


def _dispatch(command: Plan | Run | Status | Report, console: Console) -> int:
    _check_numbers(command)
    _check_numbers(command.options)
    study = command.options.load()
    root = command.options.folder(study)
    if isinstance(command, Plan):
        return plan(study, root, console, command.processes)
    if isinstance(command, Status):
        return status(study, root, console)
    if isinstance(command, Report):
        return report(study, root, console, command.to, replays=command.replays)
    _check_device(command, study.device)
    return run_study(study, root, console, command.make_engine, command.retry, command.replays)


def console_script() -> None:
    """Serve as ``sb3-moe``: its first word is ``study``, ``watch`` or ``card``."""
    words = sys.argv[1:]
    if not words or words[0] not in ("study", "watch", "card"):
        asked = words in (["-h"], ["--help"])
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    # pygame, which draws CartPole and the like, would look for a screen and what plays sounds.
    for driver in ("SDL_AUDIODRIVER", "SDL_VIDEODRIVER"):
        os.environ.setdefault(driver, "dummy")
    # As `python -m` does, so that `mine:Policy` is found here too, and in the processes of cells.
    sys.path.insert(0, os.getcwd())
    if words[0] == "watch":
        from sb3_moe.study.watch import main as watch

        sys.exit(watch(words[1:]))
    if words[0] == "card":
        from sb3_moe.study.card import main as card

        sys.exit(card(words[1:]))
    sys.exit(main(words[1:], prog="sb3-moe study"))
