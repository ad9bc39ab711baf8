"""How the processes of a study end: in order when told to, and none later than its parent."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt this process as Ctrl-C does.

    Signals that are ignored, as under ``nohup``, or have a handler, are left alone.
    """
    signals = [number for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL]
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
