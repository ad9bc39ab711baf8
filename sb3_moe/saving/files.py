"""Write files so that a reader never meets half of one: under another name, then renamed.

A :class:`Record` is a file that grows row by row.
"""

import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# How many bytes of a file's name begin its temporary name, which may have 255 bytes at most.
_MOST_BYTES = 60


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; the file replaces ``path`` once it is on the disk.

    The temporary file is hidden, in the same folder. A random part keeps its name unique.

    :param path: the file, whose folder is created if needed; an older file stays until the new one
        is complete. If it is a link, the link stays, and the file that it points to is replaced
    :raises PermissionError: if the older file can't be written to
    :raises OSError: naming the file, if the disk is full
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    start = os.fsencode(target.name)[:_MOST_BYTES].decode(errors="ignore")
    temporary = target.with_name(f".{start}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        # The error of a write, such as one to a full disk, names no file.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a file by :func:`atomic`."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal, read in pieces: the file may exceed the memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(path: Path, argument: str = "out") -> None:
    """Create a folder, and raise if nothing can be written there.

    :param argument: the argument that gave the folder, for the error
    :raises ValueError: naming the folder, and what the system says
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be a folder that can be written, got {path}: {error.strerror}"
        ) from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file by :func:`atomic`."""
    write_file(path, f"{json.dumps(values, indent=2)}\n".encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    :raises ValueError: naming the file, if it holds no JSON object
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} must hold a JSON object, got {type(values).__name__}")
    return values


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name into an ``npz`` file, by :func:`atomic`."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        # Returns are mostly whole numbers, which compress well.
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none is `allow_pickle`


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an ``npz`` file.

    :raises ValueError: naming the file, if it is damaged
    """
    try:
        # Opened here, since numpy doesn't close a damaged file that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path.name} can't be read: {error}") from error


class Record:
    """Rows of measurements by global step, in one ``npz`` file that several callbacks may share.

    Every array but the constants has a row for each of ``steps``. A measure that a row lacks is NaN
    in that row. Where rows of a measure differ in shape, because experts joined for example, the
    smaller ones are filled up with NaN. Arrays that hold no floats have -1 instead of NaN.

    :param path: the file; None keeps the rows in memory only
    :param constants: arrays that are the same in every row, such as the tasks' names
    """

    def __init__(
        self, path: Path | None, constants: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.path = path
        self.constants = dict(constants or {})
        self.rows: dict[str, np.ndarray] = {"steps": np.empty(0, np.int64)}

    def resume(self, step: int) -> None:
        """Keep only the rows up to a step, from which the run goes on.

        :param step: the run's global step; 0 forgets everything, names and shapes included
        :raises ValueError: if the file has other constants, such as other tasks
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
        steps = self.rows["steps"]
        length = len(steps) + (step not in steps[-1:])
        for name, values in self.rows.items():
            self.rows[name] = _widened(values, (length, *values.shape[1:]))
        for name, value in {"steps": step, **row}.items():
            array = np.asarray(value)
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


def _widened(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array enlarged to a shape, filled up with NaN, or with -1 if it holds no floats."""
    blank = np.nan if np.issubdtype(values.dtype, np.floating) else -1
    wide = np.full(shape, blank, values.dtype)
    wide[tuple(map(slice, values.shape))] = values
    return wide
