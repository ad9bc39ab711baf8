"""Files that are whole whenever they are read: written under another name, then renamed."""

from __future__ import annotations

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
import numpy.typing as npt

# So many of a name's bytes begin a temporary one, which file systems may take no longer than 255.
_MOST_BYTES = 60


def temporary_name(path: Path) -> Path:
    """Return where to write what is to be at ``path``: hidden, in the same folder, nobody else's.

    Processes of other machines and containers may have the same number as this one.
    """
    start = os.fsencode(path.name)[:_MOST_BYTES].decode(errors="ignore")
    return path.with_name(f".{start}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError that names none: a full disk is met by a write, not an open."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, which takes the place of ``path`` when it is on the disk.

    :param path: the file; an older one there stays until the new one is whole. A link stays, and
        what it points to is replaced
    :raises PermissionError: if an older one can't be written to
    :raises OSError: naming the file, if the disk is full
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    temporary = temporary_name(target)
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal, read in pieces: a buffer may fill the memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(path: Path, argument: str = "out") -> None:
    """Make a folder, and raise if nothing can be written there.

    :param argument: what names it
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
    """Write a JSON file in one piece."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    :raises ValueError: naming the file, if it is not one
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} must hold a JSON object, got {type(values).__name__}")
    return values


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays by name into an ``npz`` file, in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as file:
        # Returns are mostly whole numbers, which pack well.
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none is `allow_pickle`


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read every array of an ``npz`` file.

    :raises ValueError: naming the file, if it is damaged
    """
    try:
        # numpy leaves a damaged file open if it opened it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path.name} can't be read: {error}") from error
