"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = ".lock"
POLL_SECONDS = 0.1
# A process that is told to end takes a moment; NFS keeps the lock of a node that is lost for 90 s.
PATIENCE = 100.0


class BusyError(RuntimeError):
    """Another process is at work in a folder."""


@contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out of a folder, until this one lets go or ends in whatever way.

    :param folder: made if it is not there
    :param patience: seconds to wait for a process that holds it
    :raises BusyError: if one still holds it then
    :raises OSError: if the folder's file system has no locks
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience
    with (folder / LOCK).open("a") as file:
        while not _taken(file):
            if time.monotonic() >= end:
                raise BusyError(f"another process is at work in {folder}")
            time.sleep(POLL_SECONDS)
        yield


def is_held(folder: Path) -> bool:
    """Say whether another process is at work in a folder, without keeping any out for long."""
    if not (folder / LOCK).exists():
        return False
    try:
        with (folder / LOCK).open("a") as file:  # NFS locks only what can be written
            return not _taken(file)
    except OSError:  # of somebody else, or without locks: nobody can say
        return False


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(
            f"{file.name} can't be locked ({error.strerror}): put the folder on a file system that "
            "has locks"
        ) from error
    return True
