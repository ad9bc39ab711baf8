"""The command line ``sb3-moe``, outside the package so that its help need not import torch."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    import tyro
except ImportError:
    sys.exit("error: sb3-moe needs tyro, and more: pip install 'sb3-moe[cli]'")


@dataclass(frozen=True)
class StudyOptions:
    """Which study, and in which folder.

    :param study: a preset (smoke, first-run, paper-small, paper-full) or a YAML file
    :param out: the study's folder; by default runs/<name of the study>
    :param seeds: how many seeds: the first of the file's list, or 0, 1, ...
    :param steps_per_task: environment steps per task and visit, in place of the file's
    :param architecture: more networks: `<router>-<placement>`, or your own policy as
        `package.module:Class`
    :param only: only these networks of the study, and the networks whose weights they start from
    """

    study: tyro.conf.Positional[str] = "smoke"
    out: Path | None = None
    seeds: int | None = None
    steps_per_task: int | None = None
    architecture: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Plan(StudyOptions):
    """Print how many runs there are and how many are done, and estimate the time for the others.

    :param processes: runs at the same time; by default one for each core that this process may use
    """

    processes: int | None = None


@dataclass(frozen=True)
class Run(StudyOptions):
    """Train missing runs, resume interrupted ones from their last snapshots, and write the report.

    :param processes: runs at the same time, on one thread each; by default one for each core that
        this process may use, and on SLURM all
    :param retry: also run again those that failed or whose folders are damaged
    :param replays: add a page for each network on which it plays every task; takes seconds for each
    :param engine: processes of this machine (local), tasks of a Ray cluster (ray, extra study), or
        jobs of SLURM (slurm, extra slurm)
    :param address: of the Ray cluster; by default one found on this machine, else a new one
    :param cpus: CPUs per run on Ray or SLURM; by default 1
    :param gpus: GPUs per run on Ray or SLURM, by default none; on Ray also a fraction
    :param slurm: parameters of submitit, such as timeout_min=600 slurm_partition=gpu
    """

    processes: int | None = None
    retry: bool = False
    replays: bool = False
    engine: Literal["local", "ray", "slurm"] = "local"
    address: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    slurm: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status(StudyOptions):
    """Print the state of the runs: done, missing, being trained, interrupted, failed or damaged."""


@dataclass(frozen=True)
class Report(StudyOptions):
    """Write the page, figures and tables from the runs that are done.

    :param to: where to write; by default `report` in the study's folder
    :param replays: add a page for each network on which it plays every task; takes seconds for each
    :param partial: with the curves of runs that are not done; tables and claims leave them out
    """

    to: Path | None = None
    replays: bool = False
    partial: bool = False


@dataclass(frozen=True)
class Schema:
    """Print the JSON schema of a study's file, for editors."""


@dataclass(frozen=True)
class Suites:
    """List the suites: their names, tasks, and the extra that they need."""


#: The commands of ``sb3-moe``.
COMMAND: Any = (
    Annotated[
        Plan | Run | Status | Report | Schema,
        tyro.conf.subcommand("study", description="Training runs, and their report."),
    ]
    | Annotated[Suites, tyro.conf.subcommand("suites")]
)
#: The extra that a suite needs, by a word in its name or in the ids of its tasks.
EXTRAS = {
    "EnvPool": "envpool",
    "Atari-": "atari",
    "MinAtar": "minatar",
    "Breakout": "minatar",
    "MetaWorld": "metaworld",
    "MuJoCo": "mujoco",
}
EXPECTED = (ValueError, TypeError, RuntimeError, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    :param arguments: the command line without the program's name; None: this process's own
    """
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    if given == ["--version"]:
        print(version("sb3-moe"))
        return 0
    told = "Mixtures of experts for Stable-Baselines3. --version prints which one this is."
    command = tyro.cli(COMMAND, prog="sb3-moe", description=told, args=given)
    # pygame, which draws CartPole and others, would otherwise look for a screen and a sound device.
    for driver in ("SDL_AUDIODRIVER", "SDL_VIDEODRIVER"):
        os.environ.setdefault(driver, "dummy")
    try:
        if isinstance(command, Suites):
            return _list_suites()
        commands = import_module("sb3_moe.study.commands")
        return int(getattr(commands, type(command).__name__.lower())(command))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        # A wrong option or file, a missing package or a full disk needs no traceback.
        if not isinstance(error, EXPECTED) and type(error).__module__ != "gymnasium.error":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _list_suites() -> int:
    from sb3_moe_envs.suites import SUITES, suite_names

    for name in suite_names():
        one = next(SUITES[each] for each in SUITES if each.startswith(name.partition("<")[0]))
        tasks = ["any of its tasks"] if "<task>" in name else [task.name for task in one.tasks]
        ids = f"{name} {one.tasks[0].env_id}"
        extra = next((extra for word, extra in EXTRAS.items() if word in ids), "none")
        print(f"{name}: {', '.join(tasks)}; extra: {extra}")
    return 0


def console_script() -> None:
    """The entry point of the program ``sb3-moe``."""
    # As `python -m` does, so that `mine:Policy` is imported from the working directory here too,
    # and in the processes of runs.
    sys.path.insert(0, os.getcwd())
    sys.exit(main())
