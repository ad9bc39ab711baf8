"""A run's folder: what is in it, how it is written, and what state it is in.

``config.json`` comes first and ``done.json``, with every file's checksum, last. Each file is
written under a temporary name and renamed: a file that is there is whole, whenever the run was
stopped.
"""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from sb3_moe.saving.files import read_json, read_npz, sha256_of, write_json
from sb3_moe.saving.snapshot import snapshots_in, step_of
from sb3_moe.study.run.integrity import (
    RESULTS,
    check_snapshot,
    checksums_of,
    covers,
    longest_gap,
    probes_by_itself,
)
from sb3_moe.study.run.locks import LOCK

#: Unreadable is what is not damaged, as far as is known: nobody may clear it.
Status = Literal["missing", "interrupted", "done", "failed", "damaged", "unreadable"]

#: What a run's process prints.
LOG = "log.txt"


class State(NamedTuple):
    """What a folder holds, and why it is thought so."""

    status: Status
    reason: str = ""


class CellFolder:
    """The folder of one run.

    :param path: need not exist yet
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    def cells(self, cell: str) -> Path:
        """Give the folder in which those of all cells lie: deeper where an id has a slash.

        :param cell: the name of this folder's cell
        """
        return Path(*self.path.parts[: -1 - cell.count("/")])

    def config(self) -> dict[str, Any]:
        """Read ``config.json``: the cell, and what it ran on."""
        return read_json(self.path / "config.json")

    def scores(self) -> dict[str, npt.NDArray[Any]]:
        """Read ``scores.npz``."""
        return read_npz(self.path / "scores.npz")

    def diagnostics(self) -> dict[str, npt.NDArray[Any]]:
        """Read ``diagnostics.npz``."""
        return read_npz(self.path / "diagnostics.npz")

    def live(self) -> dict[str, Any]:
        """Read how far the run is; empty if it has not said so yet."""
        try:
            return read_json(self.path / "live.json")
        except ValueError:
            return {}

    def checkpoints(self) -> list[Path]:
        """List the snapshots, oldest first."""
        return snapshots_in(self.path / "checkpoints")

    def snapshots(self) -> list[Path]:
        """List the snapshots that the run can go on from, oldest first.

        They are whole, and the files of measurements reach from step 0 to them: rows from before a
        snapshot are not measured again.

        :raises ValueError: naming the file, if it reaches to no snapshot that is whole
        """
        usable = [path for path in self.checkpoints() if not _damage(path)]
        for name in self._measured() if usable else ():
            usable = [path for path in usable if self._reaches(name, step_of(path))]
            if not usable:
                raise ValueError(f"{name} lacks rows from before the snapshot")
        return usable

    def goes_on_at(self) -> int:
        """Give the step of the snapshot that the run goes on from; 0 where it starts anew."""
        try:
            snapshots = self.snapshots()
        except ValueError:
            return 0
        return step_of(snapshots[-1]) if snapshots else 0

    def start(self, config: Mapping[str, Any]) -> None:
        """Make the folder and write down what will run in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", config)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Say that everything is there, with a checksum of each file."""
        write_json(self.path / "done.json", {**summary, "sha256": self._checksums()})

    def fail(self, error: BaseException) -> None:
        """Write down why the run could not go on."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = "".join(traceback.format_exception(error))
        message = str(error).strip().splitlines() or [""]
        write_json(
            self.path / "error.json",
            {"type": type(error).__name__, "message": message[0], "traceback": text},
        )

    def clear(self) -> None:
        """Delete everything, so that the run starts anew, but the lock: others may wait for it."""
        for path in self.path.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)

    def forgive(self) -> None:
        """Forget a recorded error, so that the run goes on from its last snapshot."""
        (self.path / "error.json").unlink(missing_ok=True)

    def make_ready(self) -> None:
        """Forget what went wrong; without a snapshot to go on from, forget everything.

        What lies beside measurements that are as they were written is written again.
        """
        self.forgive()
        if self.state().status == "damaged" and self._has_measured_well():
            (self.path / "done.json").unlink(missing_ok=True)
        status = self.state().status
        if status == "damaged" or (status == "interrupted" and not self.snapshots()):
            self.clear()

    def _has_measured_well(self) -> bool:
        """Say whether the measurements can be read, and are what the run wrote if it says so."""
        try:
            expected = checksums_of(read_json(self.path / "done.json"))
        except ValueError:
            expected = {}
        try:
            names = self._measured()
            for name in names:
                read_npz(self.path / name)
            self._verify({name: expected[name] for name in names if name in expected})
        except ValueError:
            return False
        return True

    def state(self) -> State:
        """Find out what the folder holds."""
        if os.path.lexists(self.path) and not self.path.is_dir():
            return State("unreadable", "it is no folder")
        try:
            if not any(self._files()) and not self.checkpoints():
                return State("missing")
            return self._readable_state()
        except OSError as error:
            return State("unreadable", str(error))
        except ValueError as error:
            unread = _is_the_systems(error.__cause__)
            return State("unreadable" if unread else "damaged", str(error))

    def _readable_state(self) -> State:
        if (self.path / "error.json").exists():
            error = read_json(self.path / "error.json")
            return State("failed", f"{error.get('type')}: {error.get('message')}")
        self.config()
        for name in ("scores.npz", "diagnostics.npz"):
            if (self.path / name).exists():
                read_npz(self.path / name)
        if (self.path / "done.json").exists():
            self._check_done()
            return State("done")
        self.snapshots()
        return State("interrupted", "; ".join(filter(None, map(_damage, self.checkpoints()))))

    def _check_done(self) -> None:
        done = read_json(self.path / "done.json")
        self._verify(checksums_of(done))
        if not self._reaches("scores.npz", done["steps"]):
            raise ValueError(f"scores.npz lacks rows between steps 0 and {done['steps']}")

    def _measured(self) -> tuple[str, ...]:
        """Name the files of measurements that have a row for each evaluation."""
        alone = probes_by_itself(self.config())
        return ("scores.npz",) if alone else ("scores.npz", "diagnostics.npz")

    def _reaches(self, name: str, step: int) -> bool:
        """Say whether there are rows from step 0 to another."""
        rows = read_npz(self.path / name)
        return "steps" in rows and covers(rows["steps"], step, longest_gap(self.config()))

    def _files(self) -> Iterator[Path]:
        """List the run's files: no snapshots, nothing temporary, and not what it printed."""
        for path in sorted(self.path.glob("*")):
            if path.is_file() and not path.name.startswith(".") and path.name != LOG:
                yield path

    def _checksums(self) -> dict[str, str]:
        return {path.name: sha256_of(path) for path in self._files() if path.name in RESULTS}

    def _verify(self, expected: Mapping[str, str]) -> None:
        found = self._checksums()
        for name, checksum in expected.items():
            if name not in RESULTS:  # earlier versions took checksums of logs too
                continue
            if name not in found:
                raise ValueError(f"{name} is missing")
            if found[name] != checksum:
                raise ValueError(f"{name} is not what the run wrote")


def _is_the_systems(error: BaseException | None) -> bool:
    """Say whether a file may be whole, and the system didn't let us read it."""
    # A file that isn't there is damage, and zipfile seeks beyond the start of one that was cut.
    of_the_file = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    if not isinstance(error, OSError) or isinstance(error, of_the_file):
        return False
    return error.errno not in (None, errno.EINVAL)


def _damage(snapshot: Path) -> str:
    """Say what is wrong with a snapshot; nothing if it is whole."""
    try:
        check_snapshot(snapshot)
    except ValueError as error:
        return str(error)
    return ""
