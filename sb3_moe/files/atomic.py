"""Write to a temporary name and rename: whoever reads sees the old file or the new one, whole."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# So many of a name's bytes begin a temporary one, which file systems may take no longer than 255.
_MOST_BYTES = 60


def temporary_name(path: Path) -> Path:
    """Return where to write what is to be at ``path``: hidden, in the same folder, nobody else's.

    Processes of other machines and containers may have the same number as this one.
    """
    start = os.fsencode(path.name)[:_MOST_BYTES].decode(errors="ignore")
    return path.with_name(f".{start}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, which takes the place of ``path`` at the end.

    :param path: the file; an older one there stays until the new one is whole. A link stays, and
        what it points to is replaced
    :raises PermissionError: if an older one can't be written to
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    temporary = temporary_name(target)
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        # A full disk says so at a write, which knows no name.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
