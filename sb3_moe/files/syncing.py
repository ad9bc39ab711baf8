"""Put on the disk what was written, so that a power cut doesn't take it back."""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Put what was written into a file on the disk.

    :raises OSError: if there is no room for it
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; systems that can't open a folder do without."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
