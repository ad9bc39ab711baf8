"""Which process may work in a folder, and how processes of a study end."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

LOCK = ".lock"
# A process that is told to end takes a moment; NFS keeps the lock of a node that is lost for 90 s.
PATIENCE = 100.0
_STOPPING = (signal.SIGTERM, signal.SIGHUP)


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
    lock = FileLock(folder / LOCK, timeout=patience)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(f"another process is at work in {folder}") from error
    except (OSError, NotImplementedError) as error:
        raise OSError(
            f"{folder / LOCK} can't be locked ({error}): put the folder on a file system that has "
            "locks"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Say whether another process is at work in a folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with held(folder):
            return False
    except BusyError:
        return True
    except OSError:  # of somebody else, or without locks: nobody can say
        return False


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt this process as Ctrl-C does.

    Signals that are ignored, as under ``nohup``, or have a handler, are left alone.
    """
    signals = [number for number in _STOPPING if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        signals = []  # Python lets only the main thread set handlers
    for number in signals:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def end_with_parent() -> None:
    """End this process, one of multiprocessing's, as soon as its parent is gone.

    A parent that is killed can't stop its children: they would work on, with nobody to tell.
    """
    threading.Thread(target=_wait_and_exit, name="end-with-parent", daemon=True).start()


def _wait_and_exit() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
