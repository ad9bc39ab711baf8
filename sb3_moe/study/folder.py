"""A run's folder: what is in it, how it is written, and what state it is in.

``config.json`` is written first and ``done.json`` last. All files but the logs are written under a
temporary name and then renamed, so that a file that exists is whole, whenever the run was stopped.
"""

import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from sb3_moe.saving.files import read_json, read_npz, write_json
from sb3_moe.saving.snapshot import check_snapshot, snapshots_in, step_of
from sb3_moe.study.config import RunConfig

Status = Literal["missing", "interrupted", "done", "failed", "damaged"]

LOCK = ".lock"
#: What a run's process prints.
LOG = "log.txt"
#: Statistics of a normalizer that ``model.moe`` can't hold.
STATISTICS = "vec_normalize.pkl"
#: Whose weights a run began with.
ORIGIN = "start_from.json"
# Seconds to wait for a lock: a process that is told to end takes a moment, and NFS keeps the lock
# of a lost node for 90 s.
PATIENCE = 100.0
# How many bytes at the end of a log are read for its last rows.
_ROWS = 16_384


class BusyError(RuntimeError):
    """Another process is at work in a folder."""


@contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder against other processes, until the ``with`` block or this process ends.

    :param folder: made if it does not exist
    :param patience: seconds to wait for a process that holds it
    :raises BusyError: if another process still holds it then
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=patience):
            yield
    except Timeout as error:
        raise BusyError(f"another process is at work in {folder}") from error


def is_held(folder: Path) -> bool:
    """Say whether another process is at work in a folder."""
    try:
        with held(folder):
            return False
    except BusyError:
        return True


class State(NamedTuple):
    """The state of a run's folder, and the reason for it."""

    status: Status
    reason: str = ""


class RunFolder:
    """The folder of one run.

    :param path: need not exist yet
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def config(self) -> dict[str, Any]:
        """Read ``config.json``: the run, and what it ran on."""
        return read_json(self.path / "config.json")

    def scores(self) -> dict[str, np.ndarray]:
        """Read ``scores.npz``; empty if there is none."""
        return self._arrays("scores.npz")

    def diagnostics(self) -> dict[str, np.ndarray]:
        """Read ``diagnostics.npz``; empty if there is none."""
        return self._arrays("diagnostics.npz")

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.path / name
        return read_npz(path) if path.exists() else {}

    def last_logged(self) -> dict[str, str]:
        """Read the last logged value of each key; empty if nothing is logged yet."""
        files = sorted(self.path.glob("progress-*.csv"), key=lambda path: path.stat().st_mtime)
        # The newest may have no row yet, where a run has just been resumed.
        return next(filter(None, map(_last_values, reversed(files))), {})

    def checkpoints(self) -> list[Path]:
        """List the snapshots, oldest first."""
        return snapshots_in(self.path / "checkpoints")

    def snapshots(self) -> list[Path]:
        """List the snapshots that are whole, oldest first."""
        return [path for path in self.checkpoints() if not _damage(path)]

    def goes_on_at(self) -> int:
        """Give the step of the snapshot from which the run resumes; 0 if it starts anew."""
        snapshots = self.snapshots()
        return step_of(snapshots[-1]) if snapshots else 0

    def start(self, config: Mapping[str, Any]) -> None:
        """Make the folder and write down what will run in it."""
        write_json(self.path / "config.json", config)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``done.json``, which says that everything is there, and delete the snapshots."""
        write_json(self.path / "done.json", summary)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def fail(self, error: BaseException) -> None:
        """Write down why the run could not go on."""
        text = "".join(traceback.format_exception(error))
        message = (str(error).strip().splitlines() or [""])[0]
        values = {"type": type(error).__name__, "message": message, "traceback": text}
        write_json(self.path / "error.json", values)

    def make_ready(self) -> None:
        """Delete a failed run's error, so that it resumes from its last whole snapshot.

        Without one, or if the folder is damaged, all files are deleted, and the run starts anew.
        """
        error = self.path / "error.json"
        goes_on = error.exists() and self.snapshots()
        for path in [error] if goes_on else self.path.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in (LOCK, LOG):  # the lock is held, and the log is open
                path.unlink(missing_ok=True)

    def state(self) -> State:
        """Find out what the folder holds."""
        if not [path for path in self.path.glob("[!.]*") if path.name != LOG]:
            return State("missing")
        try:
            if (self.path / "error.json").exists():
                error = read_json(self.path / "error.json")
                return State("failed", f"{error['type']}: {error['message']}")
            self.config(), self.diagnostics()
            scores = self.scores()
            is_done = (self.path / "done.json").exists()
            if not scores and (is_done or self.checkpoints()):
                return State("damaged", "scores.npz is missing")
            if is_done:
                read_json(self.path / "done.json")
                return State("done")
        except (ValueError, KeyError) as error:
            return State("damaged", str(error))
        return State("interrupted", "; ".join(filter(None, map(_damage, self.checkpoints()))))


def _last_values(progress: Path) -> dict[str, str]:
    """Read the last value of each column of a file of SB3's logger."""
    with progress.open("rb") as file:
        keys = file.readline().decode().strip().split(",")
        file.seek(max(file.tell(), progress.stat().st_size - _ROWS))
        text = file.read().decode(errors="replace")
        rows = [row.split(",") for row in text.splitlines()]
    # A row that was cut off, or is being written, is shorter, and left out.
    whole = [zip(keys, row, strict=True) for row in rows if len(row) == len(keys)]
    return {key: value for row in whole for key, value in row if value}


def steps_in(row: Mapping[str, str]) -> int:
    """Give the number of steps at which a row was logged; 0 for an empty row."""
    return int(float(row.get("time/total_timesteps") or 0))


def _damage(snapshot: Path) -> str:
    """Say what is wrong with a snapshot; an empty text if it is whole."""
    try:
        check_snapshot(snapshot)
    except ValueError as error:
        return str(error)
    return ""


class Job(NamedTuple):
    """A run, its folder, and what the folder held when last looked at."""

    run: RunConfig
    folder: RunFolder
    state: State


def survey(runs: Sequence[RunConfig], root: Path) -> list[Job]:
    """Look at the folder of every run."""
    folders = [RunFolder(root / "runs" / run.name) for run in runs]
    return [Job(run, folder, folder.state()) for run, folder in zip(runs, folders, strict=True)]


def refuse_changes(jobs: Sequence[Job]) -> None:
    """Raise if a folder was made by another configuration.

    A folder may differ if its run starts anew, since it has no results that could be mixed up.

    :raises ValueError: saying which folder, and what differs
    """
    for run, folder, (status, _) in jobs:
        goes_on = status in ("failed", "interrupted") and folder.checkpoints()
        if status == "done" or goes_on:
            lines = differences(folder.config()["run"], run.to_dict())
            if lines:
                raise ValueError(
                    f"{folder.path} was made with another configuration; use another output "
                    "folder, or change it back:\n  " + "\n  ".join(lines)
                )


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """List the differences between two nested mappings of plain values, a line each.

    Of ``start_from.model`` only the file's name is compared, since a study may be moved.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted({**old, **new}):
            before, after = (each.get(key, "not given") for each in (old, new))
            lines += differences(before, after, f"{where}.{key}")
        return lines
    if where.endswith("start_from.model"):
        old = Path(str(old)).name
        new = Path(str(new)).name
    return [] if old == new else [f"{where[1:]}: {old!r} -> {new!r}"]
