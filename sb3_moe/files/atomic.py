"""Write to a temporary name and rename: whoever reads sees the old file or the new one, whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """Return where to write what is to be at ``path``: hidden, in the same folder, nobody else's.

    Processes of other machines and containers may have the same number as this one.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, which takes the place of ``path`` at the end.

    :param path: the file; an older one there stays until the new one is whole
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
