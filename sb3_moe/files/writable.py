"""Whether a folder can be written to, asked before there is anything to lose."""

from __future__ import annotations

import tempfile
from pathlib import Path


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
        raise not_writable(path, argument, error) from error


def not_writable(path: Path, argument: str, error: OSError | ValueError) -> ValueError:
    """Return what is to be raised where the system refuses a folder.

    :param error: of the system; of Python, if a name holds a zero
    """
    reason = getattr(error, "strerror", None) or error
    return ValueError(f"`{argument}` must be a folder that can be written, got {path}: {reason}")
