"""The file of a monitor, in which a run goes on where its snapshot was taken."""

from __future__ import annotations

import json
import os
import time
import warnings
from typing import Any

from stable_baselines3.common.monitor import ResultsWriter


class Reopened(ResultsWriter):
    """A monitor's file that is opened when a run writes its first row to it.

    Rows of later than the snapshot are cut off then, since the run writes them again: a run that is
    only looked at leaves them. A file of another run is never cut, and one that isn't there begins
    with SB3's header. Where none can be written, a warning says so, and there is none.

    :param name: of the file
    :param extra_keys: columns beside SB3's own
    :param header: what the file said at the snapshot, by which it is known; None: nothing is known
    :param size: of the file at the snapshot in bytes; None: nothing is known
    """

    def __init__(
        self,
        name: str,
        extra_keys: tuple[str, ...],
        header: dict[str, Any] | None = None,
        size: int | None = None,
    ) -> None:
        #: what it is made of again
        self.arguments = name, extra_keys, header, size
        self._is_begun = self.is_open = False

    def write_row(self, epinfo: dict[str, float]) -> None:
        """Write a row, as SB3 does, if the file can be written."""
        if not self._is_begun:
            self._is_begun = True
            self._open(epinfo["t"])
        if self.is_open:
            super().write_row(epinfo)

    def close(self) -> None:
        """Close the file if it is open."""
        if self.is_open:
            super().close()

    def _open(self, elapsed: float) -> None:
        """Open the file.

        :param elapsed: seconds since the monitor was made
        """
        name, extra_keys, header, size = self.arguments
        try:
            is_there = os.path.exists(name)
            is_own = is_there and header is not None and _header_of(name) == header
            if is_own and size is not None and size < os.path.getsize(name):
                os.truncate(name, size)
            header = header or {"t_start": time.time() - elapsed, "env_id": str(None)}
            super().__init__(name, header, extra_keys, override_existing=not is_there)
        except OSError as error:
            warnings.warn(f"episodes of this run are not written to a file: {error}", stacklevel=2)
        else:
            self.is_open = True


def arguments_of(writer: ResultsWriter) -> tuple[Any, ...]:
    """Return the arguments of a :class:`Reopened` that goes on where a file stands.

    :param writer: of the file
    """
    if isinstance(writer, Reopened) and not writer.is_open:
        return writer.arguments
    name, extra_keys = writer.file_handler.name, tuple(writer.logger.fieldnames)[3:]
    size = os.path.getsize(name) if os.path.exists(name) else None
    return name, extra_keys, _header_of(name), size


def _header_of(name: str) -> dict[str, Any] | None:
    """Return what the first line of a monitor's file says, None if it says nothing."""
    try:
        with open(name, encoding="utf-8") as file:
            found = json.loads(file.readline().removeprefix("#"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
