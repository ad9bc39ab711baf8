"""Tensors in a file of their own, outside an archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sb3_moe.saving.errors import UnsafeFileError


class Loose:
    """A folder whose files are read as an archive's entries are.

    :param folder: with the files
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, name: str) -> int:
        """Return the length of a file in bytes."""
        return (self._folder / name).stat().st_size

    def read_parts(self, name: str, sizes: Iterable[int]) -> Iterator[bytearray]:
        """Read a file part by part.

        :param name: of the file
        :param sizes: of the parts in bytes
        :raises UnsafeFileError: if it is too short
        """
        with (self._folder / name).open("rb") as file:
            for size in sizes:
                part = bytearray(size)
                if file.readinto(part) != size:
                    raise UnsafeFileError(f"{name} ends too early")
                yield part
