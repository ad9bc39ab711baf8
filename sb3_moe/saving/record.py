"""A file of measurements that grows by one row at a time and can be read at any time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_moe.saving.files import read_npz, write_npz

Arrays = Mapping[str, npt.NDArray[Any]]


class Record:
    """Rows of measurements by global step, in one ``npz`` file that several callbacks may share.

    ``steps`` is the first axis of every other array but the constants. A measure that a row lacks
    is NaN there, and so is what an array of a row lacks beside a larger one, of more experts, say.

    :param path: the file; None keeps the rows in memory only
    :param constants: arrays that are the same in every row, such as the tasks' names
    """

    def __init__(self, path: Path | None, constants: Arrays | None = None) -> None:
        self.path = path
        self.constants = dict(constants or {})
        self.rows: dict[str, npt.NDArray[Any]] = {"steps": np.empty(0, np.int64)}
        self._model: object = None

    @classmethod
    def of(
        cls, model: object, before: Record | None, path: Path | None, constants: Arrays
    ) -> Record:
        """Return the record of a model's run: the one before, if it is that model's and in memory.

        SB3 tells callbacks of their model in each ``learn``, and one goes on where another ended.

        :param model: whose run it is
        :param before: of the same callback
        :param path: as of the class
        :param constants: as of the class
        """
        record = cls(path, constants)
        record._model = model
        if before is None or before._model is not model or not (path is before.path is None):
            return record
        ours, theirs = (
            {name: each.tolist() for name, each in one.constants.items()}
            for one in (record, before)
        )
        return before if ours == theirs else record

    @property
    def last_step(self) -> int | None:
        """The step of the latest row."""
        steps = self.rows["steps"]
        return int(steps[-1]) if len(steps) else None

    def resume(self, step: int) -> None:
        """Keep what was measured up to a step, as a run that goes on from there needs it.

        :param step: where the run stands; 0 forgets everything, names and shapes included
        :raises ValueError: if the file is of other tasks
        """
        if step <= 0:
            self.rows = {"steps": np.empty(0, np.int64)}
        else:
            self._read()
            kept = self.rows["steps"] <= step
            self.rows = {name: values[kept] for name, values in self.rows.items()}
        if self.path is not None and self.path.exists():
            self._write()

    def add(self, step: int, row: Mapping[str, Any]) -> None:
        """Add a row, or complete the row of the same step, and write the file.

        :param step: global step, at least the latest one
        :param row: arrays or numbers by name
        """
        self._read()
        length = len(self.rows["steps"]) + (self.last_step != step)
        arrays = {name: np.asarray(value) for name, value in row.items()}
        for name, values in self.rows.items():
            self.rows[name] = _widened(values, (length, *values.shape[1:]))
        self.rows["steps"][-1] = step
        for name, array in arrays.items():
            old = self.rows.get(name, np.empty((0, *array.shape), array.dtype))
            shape = tuple(map(max, old.shape[1:], array.shape))
            self.rows[name] = _widened(old, (length, *shape))
            self.rows[name][-1] = _widened(array, shape)
        self._write()

    def _read(self) -> None:
        if self.path is None or not self.path.exists():
            return
        arrays = read_npz(self.path)
        for name, value in self.constants.items():
            if name in arrays and not np.array_equal(arrays[name], value):
                raise ValueError(
                    f"`log_path` must be another folder: {self.path} is of `{name}` "
                    f"{arrays[name].tolist()}, and now they are {value.tolist()}"
                )
        self.rows = {name: arrays[name] for name in arrays if name not in self.constants}

    def _write(self) -> None:
        if self.path is not None:
            write_npz(self.path, {**self.constants, **self.rows})


def _widened(values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an array in a larger one, NaN or -1 where it has nothing."""
    blank = np.nan if np.issubdtype(values.dtype, np.floating) else -1
    wide = np.full(shape, blank, values.dtype)
    wide[tuple(map(slice, values.shape))] = values
    return wide
