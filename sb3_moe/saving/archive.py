"""The zip around a saved model: few entries, known by name, stored as they are."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from sb3_moe.files.atomic import atomic
from sb3_moe.files.syncing import sync_folder
from sb3_moe.saving.errors import UnsafeFileError

ENDING = ".moe"
MODEL = "model.json"
ARRAYS = "arrays.safetensors"
WEIGHTS = "weights.safetensors"
OPTIMIZERS = "optimizers.safetensors"
REPLAY_BUFFER = "replay_buffer.safetensors"
REQUIRED = (MODEL, ARRAYS, WEIGHTS, OPTIMIZERS)
ALLOWED = (*REQUIRED, REPLAY_BUFFER)

# The zip's last record (APPNOTE 4.3.16), and the one before it in files above 2 GiB.
_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR, _ZIP64_LOCATOR_SIZE = b"PK\x06\x07", 20
_MAX_DIRECTORY = 4096
_NOT_OURS = (
    "sb3_moe.save didn't write it; a file of SB3's model.save is opened by PPO.load or its like"
)
# Any zip tool writes the same bytes for the same entries.
_DATE = (1980, 1, 1, 0, 0, 0)


def as_written(path: Path) -> Path:
    """Return where a model is written: a name without an ending gets one, as SB3's does.

    :raises ValueError: if the path has no name that could get one
    """
    if _is_nameless(path):
        raise ValueError(f"`path` must be a file's, got {str(path)!r}")
    return path if path.suffix else Path(f"{path}{ENDING}")


def as_read(path: Path) -> Path:
    """Return where a model is found: by its name, or by its name without the ending."""
    if _is_nameless(path):
        return path  # whoever opens it says what it is
    written = as_written(path)
    # A folder may have the model's name.
    others = path.is_dir() and written.is_file()
    return path if path.exists() and not others else written


def _is_nameless(path: Path) -> bool:
    return path.name in ("", "..")


def write_archive(path: Path, entries: Mapping[str, bytes]) -> None:
    """Write a file under a temporary name, and rename it when it is on the disk.

    :param path: where it is to be; an older file there stays until the new one is whole
    :param entries: by name
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as file:
        write_entries(file, entries)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(Path(os.path.realpath(path)).parent)


def write_entries(file: IO[bytes], entries: Mapping[str, bytes]) -> None:
    """Write a file's contents, which may yet have to be put on the disk.

    :param file: open for writing
    :param entries: by name
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), data)


class Archive:
    """A file that was checked before any entry of it is read.

    :param file: open for reading
    :param max_bytes: the most that the file may hold
    :raises UnsafeFileError: if it isn't a zip as :func:`write_archive` writes it
    """

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        size = _check_size(file, max_bytes)
        _check_end(file, size)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise UnsafeFileError(f"it is no whole zip file ({error})") from error
        self._entries = _checked_entries(self._zip.infolist(), size)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def size(self, name: str) -> int:
        """Return the length of an entry in bytes."""
        return self._entries[name].file_size

    def read(self, name: str) -> bytes:
        """Read an entry.

        :param name: of the entry
        :raises UnsafeFileError: if it is damaged
        """
        return next(self.read_parts(name, [self.size(name)]))

    def read_parts(self, name: str, sizes: Iterable[int]) -> Iterator[bytes]:
        """Read an entry part by part; with its last byte, its checksum is compared.

        :param name: of the entry
        :param sizes: of the parts in bytes
        :raises UnsafeFileError: if it is damaged
        """
        try:
            with self._zip.open(self._entries[name]) as entry:
                for size in sizes:
                    yield entry.read(size)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise UnsafeFileError(f"{name} is damaged ({error})") from error


def _check_size(file: IO[bytes], max_bytes: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
        raise UnsafeFileError(
            f"it has {size} bytes and `max_bytes` is {max_bytes}: pass max_bytes={2 * size} if it "
            "is yours"
        )
    return size


def _check_end(file: IO[bytes], size: int) -> None:
    """Look at the zip's last record ourselves: zipfile would read a directory of any length."""
    if size < _END.size:
        raise UnsafeFileError("it is no whole zip file (too short)")
    file.seek(max(0, size - _END.size - _ZIP64_LOCATOR_SIZE))
    tail = file.read()
    signature, *numbers = _END.unpack(tail[-_END.size :])
    _, _, _, count, directory, _, comment = numbers
    if signature != b"PK\x05\x06" or comment:
        raise UnsafeFileError("it is no whole zip file (its last record is missing)")
    if count > len(ALLOWED) or directory > _MAX_DIRECTORY:
        raise UnsafeFileError(
            f"{_NOT_OURS} (it has {count} entries, more than the {len(ALLOWED)} of ours)"
        )
    if tail.startswith(_ZIP64_LOCATOR) and size < zipfile.ZIP64_LIMIT:
        raise UnsafeFileError("it is a zip64 file below 2 GiB")


def _checked_entries(infos: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    names = [info.filename for info in infos]
    if unknown := [name for name in names if name not in ALLOWED]:
        raise UnsafeFileError(f"{_NOT_OURS} (it has an entry that ours lack, {unknown[0][:60]!r})")
    if len(set(names)) < len(names):
        raise UnsafeFileError("it has two entries of one name")
    if missing := [name for name in REQUIRED if name not in names]:
        raise UnsafeFileError(f"it has no entry {missing[0]!r}, so it is no sb3_moe model")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UnsafeFileError(f"{info.filename} is compressed; entries are stored as they are")
        if info.flag_bits & ~0x800:
            raise UnsafeFileError(f"{info.filename} is encrypted or has an unknown flag")
    if sum(info.file_size for info in infos) > size:
        raise UnsafeFileError("its entries overlap: they are longer than the file")
    return {info.filename: info for info in infos}
