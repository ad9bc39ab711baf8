"""What the commands of ``sb3-moe study`` do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from sb3_moe.saving.files import check_writable, read_json, write_json
from sb3_moe.study.claims import load_claims
from sb3_moe.study.report.results import check_level
from sb3_moe.study.run.engine import Engine, child_environment, environment
from sb3_moe.study.run.jobs import (
    ChangedConfigError,
    Job,
    changes,
    refuse_changes,
    survey,
    unfinished,
)
from sb3_moe.study.run.locks import LOCK, is_held
from sb3_moe.study.run.provenance import provenance
from sb3_moe.study.run.random_policy import random_returns, read_returns
from sb3_moe.study.run.runner import locked, run
from sb3_moe.study.run.starting import refuse_changed_models
from sb3_moe.study.run.view import LiveView
from sb3_moe.study.spec.algorithms import algorithm_class
from sb3_moe.study.spec.config import CellConfig
from sb3_moe.study.spec.grid import StudyConfig
from sb3_moe.vec_env.evaluating import is_told_masks

#: Where, in a study's folder, processes leave each other what jax has compiled.
CACHE = ".jax"

TRAINED = "being trained"


def status(study: StudyConfig, root: Path, console: Console) -> int:
    """Print what the folders hold.

    :return: 1 if one failed, is damaged, can't be read or is of another configuration
    """
    jobs = survey(study.cells(), root)
    counts = Counter(map(_status, jobs))
    changed = {job.folder.path: changes(job) for job in jobs}
    for job in jobs:
        if job.state.status not in ("done", "missing"):
            say(console, f"{job.folder.path}: {_standing(job)}")
        if changed[job.folder.path]:
            lines = "\n  ".join(changed[job.folder.path])
            say(console, f"{job.folder.path}: made with another configuration:\n  {lines}")
    say(console, ", ".join(f"{count} {name}" for name, count in counts.items()))
    if any(changed.values()):
        say(console, "use another output folder, or change the configuration back")
    if counts["failed"] + counts["damaged"]:
        say(console, "run those that failed or are damaged again with: run --retry")
    wrong = counts["failed"] + counts["damaged"] + counts["unreadable"]
    return 1 if wrong or any(changed.values()) else 0


def _standing(job: Job) -> str:
    """Say how far a cell is, and what is wrong with it."""
    status, reason = _status(job), job.state.reason
    if job.state.status == "interrupted":
        steps = job.folder.live().get("steps")
        reached = f"{steps if isinstance(steps, int) else 0:,} of {job.cell.total_steps:,} steps"
        if status == TRAINED:
            return f"{status}, at {reached}"
        status = f"{status} at {reached}, goes on from {job.folder.goes_on_at():,}"
    return f"{status}: {reason}" if reason else status


def _status(job: Job) -> str:
    """Give a cell's status; one that seems interrupted may be at work."""
    if job.state.status == "interrupted" and is_held(job.folder.path):
        return TRAINED
    return job.state.status


def run_study(
    study: StudyConfig,
    root: Path,
    console: Console,
    make_engine: Callable[[Path], Engine],
    retry: bool = False,
    replays: bool = False,
) -> int:
    """Run what is missing, then write the report; 1 if a cell is not done at the end.

    :param replays: with a page on which each network plays
    :raises ValueError: if a claim is wrong, a network can't be built, or a folder was made by
        another configuration
    :raises BusyError: if another process runs cells in the folder
    """
    from sb3_moe.study.report.writing import check_report_folder

    check_claims(study, console)
    check_writable(root)
    check_report_folder(root / "report", "out")
    with locked(root):
        jobs = survey(study.cells(), root)
        refuse_changes(jobs)
        refuse_changed_models(jobs)
        strangers = found_besides(study.only(()), root)
        if strangers:
            say(console, f"{root} also holds what this study leaves alone: {', '.join(strangers)}")
        other = _another_study(study, root / "study.json")
        if other:
            say(console, f"{root} is of the study {other!r}: its study.json and report go")
        todo = unfinished(jobs, retry)
        # First of all: Ray starts by forks, which jax, once it is loaded, does not bear.
        engine = make_engine(root) if todo else None
        try:
            if engine is not None:
                rehearse([job.cell for job in todo], root)
            prepare(study, root)
            if engine is not None:
                with LiveView(todo, console) as view:
                    run(todo, engine, view)
        except KeyboardInterrupt:
            say(console, f"stopped; what is finished stays in {root}: run again to go on")
            raise
    counts = Counter(job.state.status for job in survey(study.cells(), root))
    if counts["done"]:
        report(_as_reported(study, root), root, console, replays=replays)
    status(study, root, console)
    return 0 if set(counts) == {"done"} else 1


def _as_reported(study: StudyConfig, root: Path) -> StudyConfig:
    """Give a study with all its networks, also those that were left out of this run.

    Without those where the folder has some of another configuration, which no report takes.
    """
    whole = study.only(())
    try:
        refuse_changes(survey(whole.cells(), root))
    except ChangedConfigError:
        return study
    return whole


def found_besides(study: StudyConfig, root: Path) -> list[str]:
    """List what a study's folder holds that isn't the study's, such as another one's cells."""
    ours = {CACHE, LOCK, "cells", "report", "study.json", "random.json"}
    # An id's slash makes folders within folders.
    cells = {Path(cell.name).parts[0] for cell in study.cells()}
    others = [path.name for path in root.glob("*") if path.name not in ours]
    others += [f"cells/{p.name}" for p in (root / "cells").glob("*") if p.name not in cells]
    return sorted(others)


def _another_study(study: StudyConfig, path: Path) -> str | None:
    """Give the name of the study that a folder was made for, where that is another one.

    :param path: of what an earlier call wrote
    """
    try:
        name = read_json(path)["study"]["name"]
    except (KeyError, TypeError, ValueError):  # not there, or damaged
        return None
    return str(name) if name != study.name else None


def check_claims(study: StudyConfig, console: Console) -> None:
    """Read the claims, so that what is wrong with them shows before anything is run.

    Groups without a run, and measures without a value, are only named: several studies may share a
    file of claims.

    :raises ValueError: naming the claim
    """
    if study.claims is None:
        return
    claims = load_claims(study.claims)
    claims.check_tasks(study.games)
    cells = study.only(()).cells()
    for line in [*claims.without_runs(cells), *claims.without_values(cells)]:
        say(console, line)


def prepare(study: StudyConfig, root: Path) -> None:
    """Write down the study, and measure the random policy's level once."""
    path = root / "random.json"
    try:
        _check_level(study, root / "study.json")
        read_returns(path, study.games, study.random_episodes)
    except ValueError:  # not there, damaged, or of what the study was before
        with environment(child_environment(root / CACHE)):
            measured = random_returns(
                study.games, study.random_episodes, algorithm=study.algorithm, **study.world
            )
        write_json(path, {game: np.round(r, 6).tolist() for game, r in measured.items()})
    # After the level, since it says which environments that is of.
    masked = is_told_masks(algorithm_class(study.algorithm))
    write_json(
        root / "study.json", {"study": study.to_dict(), "random_masked": masked, **provenance()}
    )


def _check_level(study: StudyConfig, path: Path) -> None:
    """Raise if a folder's random policy played in other environments, as far as the folder says.

    :param path: of what an earlier call wrote
    :raises ValueError: if it did, or the file can't be read
    """
    last = read_json(path) if path.exists() else {}
    masked = is_told_masks(algorithm_class(study.algorithm))
    if "study" in last and masked and not last.get("random_masked"):
        raise ValueError(f"{path.name} must be of a random policy that keeps to masks")
    check_level(study, last)


def rehearse(cells: Sequence[CellConfig], root: Path) -> None:
    """Build each network that will be trained, where a mistake costs seconds.

    :raises ValueError: naming the architecture that can't be built
    """
    from sb3_moe.study.run.rehearsal import check_networks

    with environment(child_environment(root / CACHE)):
        check_networks(cells)


def report(
    study: StudyConfig,
    root: Path,
    console: Console,
    to: Path | None = None,
    *,
    replays: bool = False,
) -> int:
    """Write the report from what is done.

    :param replays: with a page on which each network plays
    """
    from sb3_moe.study.report.writing import report_folder, write_report

    if replays:
        report_folder(root, to)  # where a mistake costs nothing
        play(study, root, console, to)
    page = write_report(study, root, to)
    say(console, f"report: {page}")
    return 0


def play(study: StudyConfig, root: Path, console: Console, to: Path | None = None) -> None:
    """Write a page on which each network plays, for the report that is written next."""
    from sb3_moe.study.report.replays import write_replays

    for line in write_replays(study, root, to or root / "report", root / CACHE):
        say(console, line)


def say(console: Console, text: str) -> None:
    """Print text as it is: paths and reasons may hold brackets, which rich takes for markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
