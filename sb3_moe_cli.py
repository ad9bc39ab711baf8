"""``sb3-moe``: the command line, beside the package so that its help need not wait for torch."""

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
    """Which study, and where.

    :param study: a preset (smoke, first-run, paper-small, paper-full) or a YAML file
    :param out: its folder; by default runs/<name of the study>
    :param seeds: how many seeds, in place of the file's
    :param steps_per_task: environment steps per task and visit, in place of the file's
    :param architecture: more networks: `<router>-<placement>`, or your own policy as
        `package.module:Class`
    :param only: only these of its networks, and what they start from: all seeds of one, say
    """

    study: tyro.conf.Positional[str] = "smoke"
    out: Path | None = None
    seeds: int | None = None
    steps_per_task: int | None = None
    architecture: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Plan(StudyOptions):
    """Print the runs, what is done, and the time that the rest would take, within a minute.

    :param processes: runs at a time; by default as many as the cores that it may use
    """

    processes: int | None = None


@dataclass(frozen=True)
class Run(StudyOptions):
    """Run what is missing, from the last snapshots, and write the report.

    :param processes: runs at a time, on one thread each; by default as many as the cores that it
        may use
    :param retry: run what failed or is damaged again
    :param replays: in the report, a page on which each network plays: some seconds for each
    :param engine: processes of this machine, tasks of a Ray cluster, or jobs of SLURM (extra slurm)
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
    """Say what each run's folder holds."""


@dataclass(frozen=True)
class Report(StudyOptions):
    """Write the page, figures and tables from the runs that are done.

    :param to: where to write; by default `report` in the study's folder
    :param replays: with a page on which each network plays: some seconds for each
    :param partial: with the curves of runs that are not done; tables and claims leave them out
    """

    to: Path | None = None
    replays: bool = False
    partial: bool = False


@dataclass(frozen=True)
class Schema:
    """Print the JSON schema of a study's file, for editors."""


@dataclass(frozen=True)
class AgentOptions:
    """The agent, and what opening it takes.

    :param model: a file of sb3_moe.save (.moe), or SB3's zip with --trust
    :param tasks: needed: a suite's name, or Gymnasium ids or a study's names, as the agent was
        trained on; an id with arguments is '[CartPole-v1, {max_episode_steps: 50}]'; what builds
        your own is package.module:callable, imported from the path
    :param trust: open SB3's zip, which can run code: only your own
    :param algorithm: of SB3's zip, which doesn't say
    :param custom: your own classes that a .moe names, such as nearest:Nearest, imported from the
        path
    :param episodes: of each task; for a card's results
    :param max_steps: of each task; in a card's replay
    :param seed: of the environments and the actions
    :param stochastic: draw actions instead of taking the most likely ones
    """

    model: tyro.conf.Positional[Path]
    tasks: tuple[str, ...] = ()
    trust: bool = False
    algorithm: str = "PPO"
    custom: tuple[str, ...] = ()
    episodes: int = 1
    max_steps: int = 1000
    seed: int = 0
    stochastic: bool = False


@dataclass(frozen=True)
class Watch(AgentOptions):
    """Play every task and write a page with images, gates, values and rewards.

    :param without: experts to play without, side by side, such as pi:2
    :param table: episodes of each task for a table of returns without each expert; 0 for none
    :param out: the page, or a film where it ends in .gif or .mp4
    """

    without: tuple[str, ...] = ()
    table: int = 0
    out: Path = Path("replay.html")


@dataclass(frozen=True)
class Card(AgentOptions):
    """Write model, card, config, results and replay into a folder, and upload it if asked to.

    :param out: the folder
    :param license: of the agent, as the Hub calls it
    :param push: upload the folder to this repository of the Hub, such as user/name
    :param private: let a new repository be yours alone
    """

    episodes: int = 10
    out: Path = Path("hub")
    license: str = "mit"
    push: str | None = None
    private: bool = False


@dataclass(frozen=True)
class Suites:
    """List the suites: their names, tasks, and the extra that they need."""


#: What may be typed behind ``sb3-moe``.
COMMAND: Any = (
    Annotated[
        Plan | Run | Status | Report | Schema,
        tyro.conf.subcommand("study", description="Training runs, and their report."),
    ]
    | Annotated[Watch, tyro.conf.subcommand("watch")]
    | Annotated[Card, tyro.conf.subcommand("card")]
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
    """Run a command; give its exit status.

    :param arguments: without the program's name; None for this process's
    """
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    if given == ["--version"]:
        print(version("sb3-moe"))
        return 0
    told = "Mixtures of experts for Stable-Baselines3. --version prints which one this is."
    command = tyro.cli(COMMAND, prog="sb3-moe", description=told, args=given)
    # pygame, which draws CartPole and the like, would look for a screen and what plays sounds.
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
        # What a wrong word or file, a missing package or a full disk raises needs no traceback.
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
    """Serve as ``sb3-moe``."""
    # As `python -m` does, so that `mine:Policy` is found here too, and in the processes of runs.
    sys.path.insert(0, os.getcwd())
    sys.exit(main())
