"""A file of measurements that grows by one row at a time and can be read at any time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_moe.saving.files import read_npz, write_npz

Rows = dict[str, npt.NDArray[Any]]


class Record:
    """Rows of measurements by global step, in one ``npz`` file that several callbacks may share.

    ``steps`` is the first axis of every other array but the constants. A measure that a row lacks
    is NaN there, and so is what an array of a row lacks beside a larger one, of more experts, say.

    :param path: the file; None keeps the rows in memory only
    :param constants: arrays that are the same in every row, such as the tasks' names
    """

    def __init__(
        self, path: Path | None, constants: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> None:
        self.path = path
        self.constants = dict(constants or {})
        self.rows = _no_rows()
        self._model: object = None

    @classmethod
    def of(
        cls,
        model: object,
        before: Record | None,
        path: Path | None,
        constants: Mapping[str, npt.NDArray[Any]],
    ) -> Record:
        """Return the record of a model's run: the one before, if it is that model's and in memory.

        SB3 tells callbacks of their model in each ``learn``, and one goes on where another ended.

        :param model: whose run it is
        :param before: of the same callback
        :param path: as of the class
        :param constants: as of the class
        """
        in_memory = path is None and before is not None and before.path is None
        is_same = before is not None and before._model is model
        if before is not None and in_memory and is_same and _alike(before.constants, constants):
            return before
        record = cls(path, constants)
        record._model = model
        return record

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
            self._clear()
            return
        self._read()
        kept = self.rows["steps"] <= step
        if not kept.all():
            self.rows = {name: values[kept] for name, values in self.rows.items()}
            self._write()

    def _clear(self) -> None:
        self.rows = _no_rows()
        if self.path is not None and self.path.exists():
            self._write()

    def add(self, step: int, row: Mapping[str, Any]) -> None:
        """Add a row, or complete the row of the same step, and write the file.

        :param step: global step, at least the latest one
        :param row: arrays or numbers by name
        """
        self._read()
        if self.last_step != step:
            self.rows = {name: _append_blank(values) for name, values in self.rows.items()}
            self.rows["steps"][-1] = step
        length = len(self.rows["steps"])
        for name, value in row.items():
            array = np.asarray(value)
            if name not in self.rows:
                self.rows[name] = np.full((length, *array.shape), _blank(array.dtype), array.dtype)
            old, shape = self.rows[name], self.rows[name].shape[1:]
            if array.shape != shape and array.ndim == len(shape):
                wide = tuple(map(max, shape, array.shape))
                self.rows[name] = _widened(old, (length, *wide))
                array = _widened(array, wide)
            self.rows[name][-1] = array
        self._write()

    def _read(self) -> None:
        if self.path is not None and self.path.exists():
            arrays = read_npz(self.path)
            self._check(arrays)
            self.rows = {name: arrays[name] for name in arrays if name not in self.constants}

    def _check(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, value in self.constants.items():
            if name in arrays and not np.array_equal(arrays[name], value):
                raise ValueError(
                    f"`log_path` must be another folder: {self.path} is of `{name}` "
                    f"{arrays[name].tolist()}, and now they are {value.tolist()}"
                )

    def _write(self) -> None:
        if self.path is not None:
            write_npz(self.path, {**self.constants, **self.rows})


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def _no_rows() -> Rows:
    return {"steps": np.empty(0, np.int64)}


def _append_blank(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    blank = np.full((1, *values.shape[1:]), _blank(values.dtype), values.dtype)
    return np.concatenate([values, blank])


def _widened(values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    wide = np.full(shape, _blank(values.dtype), values.dtype)
    wide[tuple(map(slice, values.shape))] = values
    return wide


def _blank(dtype: np.dtype[Any]) -> Any:
    return np.nan if np.issubdtype(dtype, np.floating) else -1
