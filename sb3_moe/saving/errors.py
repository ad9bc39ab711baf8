"""The one way in which opening a file fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch as th


class UnsafeFileError(ValueError):
    """A file that can't be opened safely, and what is wrong with it, in one line."""


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn whatever a file's contents lead to into one line that names the file.

    :param path: the file
    :raises MemoryError: if there is too little memory here, which is no fault of the file's
    :raises UnsafeFileError: in place of any other exception
    """
    try:
        yield
    except (MemoryError, th.OutOfMemoryError):
        raise
    except Exception as error:  # contents can be wrong in any way
        reason = str(error) if isinstance(error, UnsafeFileError) else _named(error)
        raise UnsafeFileError(f"{path.name} can't be opened: {_one_line(reason)}") from error


def _named(error: Exception) -> str:
    return f"it describes no model that can be built ({type(error).__name__}: {error})"


def _one_line(text: str, most: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + " ..."
