"""A run's folder: what is in it, how it is written, and what state it is in.

``config.json`` comes first and ``done.json``, with the checksums of the results, last. Each file is
written under a temporary name and renamed: a file that is there is whole, whenever the run was
stopped.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sb3_moe.saving.files import read_json, read_npz, sha256_of, write_json
from sb3_moe.saving.snapshot import check_files, snapshots_in, step_of
from sb3_moe.study.run.processes import LOCK
from sb3_moe.study.spec.config import steps_between

Status = Literal["missing", "interrupted", "done", "failed", "damaged"]

#: What a run's process prints.
LOG = "log.txt"
#: What every run that is done has written.
ESSENTIAL = ("config.json", "scores.npz")
#: Statistics of a normalizer that ``model.moe`` can't hold.
STATISTICS = "vec_normalize.pkl"
#: Whose weights a run began with.
ORIGIN = "start_from.json"
#: What a run that is done is judged by: the user's callbacks may still write into files of theirs.
RESULTS = (*ESSENTIAL, "diagnostics.npz", "model.moe", "model.zip", STATISTICS, ORIGIN)


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

    def config(self) -> dict[str, Any]:
        """Read ``config.json``: the run, and what it ran on."""
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
        """Say that everything is there, with a checksum of each result."""
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

    def make_ready(self) -> None:
        """Forget what went wrong; without a snapshot to go on from, forget everything."""
        (self.path / "error.json").unlink(missing_ok=True)
        try:
            goes_on = bool(self.snapshots()) and self._has_what_was_measured()
        except ValueError:
            goes_on = False
        for path in self.path.glob("done.json" if goes_on else "*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:  # for which others may wait
                path.unlink(missing_ok=True)

    def _has_what_was_measured(self) -> bool:
        """Say whether the measurements are what the run wrote, if it has said what that was."""
        try:
            expected = read_json(self.path / "done.json")["sha256"]
        except (ValueError, KeyError):
            return True
        found = self._checksums()
        return all(found.get(name) == expected.get(name) for name in self._measured())

    def state(self) -> State:
        """Find out what the folder holds."""
        files = [path for path in self.path.glob("[!.]*") if path.name not in (LOG, "checkpoints")]
        if not files and not self.checkpoints():
            return State("missing")
        try:
            if (self.path / "error.json").exists():
                error = read_json(self.path / "error.json")
                return State("failed", f"{error.get('type')}: {error.get('message')}")
            for name in ("scores.npz", "diagnostics.npz"):
                if (self.path / name).exists():
                    read_npz(self.path / name)
            if (self.path / "done.json").exists():
                self._check_done()
                return State("done")
            self.snapshots()
        except (ValueError, KeyError) as error:
            return State("damaged", str(error))
        return State("interrupted", "; ".join(filter(None, map(_damage, self.checkpoints()))))

    def _check_done(self) -> None:
        """Raise unless results are what the run wrote, and reach to its end."""
        done = read_json(self.path / "done.json")
        found, expected = self._checksums(), done["sha256"]
        for name in {*ESSENTIAL, *expected} & {*RESULTS}:
            if name not in found:
                raise ValueError(f"{name} is missing")
            if found[name] != expected.get(name):
                raise ValueError(f"{name} is not what the run wrote")
        if not self._reaches("scores.npz", done["steps"]):
            raise ValueError(f"scores.npz lacks rows between steps 0 and {done['steps']}")

    def _checksums(self) -> dict[str, str]:
        paths = (self.path / name for name in RESULTS)
        return {path.name: sha256_of(path) for path in paths if path.is_file()}

    def _measured(self) -> tuple[str, ...]:
        """Name the files of measurements that have a row for each evaluation."""
        # A PlasticityCallback of the study's file looks when and where that says.
        alone = self.config().get("probes_by_itself")
        return ("scores.npz",) if alone else ("scores.npz", "diagnostics.npz")

    def _reaches(self, name: str, step: int) -> bool:
        """Say whether there are rows from step 0 to another."""
        steps, config = read_npz(self.path / name).get("steps", np.empty(0)), self.config()
        cell, rollout = config["cell"], config["rollout"]
        every = steps_between(cell["steps_per_task"], cell["evaluation"]["points"])
        # An evaluation that is due waits for the rollout's end.
        longest_gap = -(-every // rollout) * rollout
        marks = np.append(steps[steps <= step], step)
        return bool(marks[0] == 0 and np.diff(marks).max(initial=0) <= longest_gap)


def _damage(snapshot: Path) -> str:
    """Say what is wrong with a snapshot; nothing if it is whole."""
    try:
        check_files(snapshot)
    except ValueError as error:
        return str(error)
    return ""
