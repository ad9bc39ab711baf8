"""Which files a folder has, signed: what can run code is read only as the user's own runs wrote it.

``manifest.json`` holds each file's length, the SHA-256 of all but the rows of replay buffers, which
are large and can't run code, and the HMAC-SHA256 of that list under the user's key. So neither a
file nor a part of another snapshot can take a file's place.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from io import BufferedReader
from pathlib import Path
from typing import Any

from sb3_moe.files.digest import sha256_of
from sb3_moe.files.user_key import VARIABLE, KeyFileError, is_signature, key_path, sign
from sb3_moe.saving import strict_json
from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.values import checked_type

MANIFEST = "manifest.json"
_FORMAT = "sb3_moe snapshot"
_MAX_MANIFEST = 2**16


class UntrustedError(UnsafeFileError):
    """A file that can run code, and of which nothing says that one's own run wrote it."""


class DamagedError(UnsafeFileError):
    """A file that isn't what the run wrote."""


def write_manifest(folder: Path, unhashed: tuple[str, ...]) -> None:
    """Write the manifest of all files of a folder, and warn if it can't be signed.

    :param folder: with every file that belongs to it
    :param unhashed: names of files that can't run code, of which the length must do
    """
    files = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": None if path.name in unhashed else sha256_of(path),
        }
        for path in sorted(folder.iterdir())
    }
    signature = None
    try:
        signature = sign(_message(files), make=True)
    except KeyFileError as error:
        warnings.warn(
            f"snapshots are not signed, and only `trust=True` resumes them: {error}; let "
            f"{VARIABLE} name a file that you can write",
            stacklevel=2,
        )
    manifest = {"format": _FORMAT, "files": files, "hmac_sha256": signature}
    (folder / MANIFEST).write_bytes(strict_json.dumps(manifest))


def _message(files: dict[str, Any]) -> bytes:
    # Under one key, no other list can be taken for a snapshot's.
    ordered = {name: files[name] for name in sorted(files)}
    return f"{_FORMAT}\n".encode() + strict_json.dumps(ordered)


class Manifest:
    """A folder's files, each compared with what was written before any use is made of it.

    :param folder: the snapshot
    :param trust: go without a signature, and without a manifest too
    :raises UntrustedError: if the manifest isn't signed with the user's key, or isn't there
    :raises DamagedError: if the manifest is none
    """

    def __init__(self, folder: Path, *, trust: bool) -> None:
        self.folder = folder
        self._files: dict[str, Any] | None = None
        if os.path.lexists(folder / MANIFEST):
            self._files, signature = _read_manifest(folder)
            if not trust:
                _check_signature(folder, self._files, signature)
        elif not trust:
            raise untrusted(folder, f"it has no {MANIFEST}")

    def __contains__(self, name: str) -> bool:
        if self._files is None:
            return (self.folder / name).exists()
        return name in self._files

    def read(self, name: str) -> bytes:
        """Read a file once, and return what was compared.

        :raises DamagedError: if it isn't what was written
        """
        with open_regular(self.folder / name) as file:
            sha256 = self._expected(name, file)
            data = file.read()
        # A file of which the length must do is never read as a whole, and never unpickled.
        if self._files is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise self._damaged(name)
        return data

    def check(self, name: str) -> Path:
        """Return the path of a file that runs nothing, once it has been compared.

        :raises DamagedError: if it isn't what was written
        """
        with open_regular(self.folder / name) as file:
            sha256 = self._expected(name, file)
            if sha256 is not None and _digest(file) != sha256:
                raise self._damaged(name)
        return self.folder / name

    def check_all(self) -> None:
        """Compare every file.

        :raises DamagedError: naming the first that isn't what was written
        """
        for name in self._files or {}:
            self.check(name)

    def _expected(self, name: str, file: BufferedReader) -> str | None:
        """Compare a file's length, and return its checksum; None if the length must do."""
        if self._files is None:
            return None
        if name not in self._files:
            raise DamagedError(f"{self.folder.name}/{MANIFEST} has no {name}")
        entry = self._files[name]
        if os.fstat(file.fileno()).st_size != entry["bytes"]:
            raise self._damaged(name)
        sha256: str | None = entry["sha256"]
        return sha256

    def _damaged(self, name: str) -> DamagedError:
        return DamagedError(f"{self.folder.name}/{name} is not what the run wrote")


def check_files(folder: Path) -> None:
    """Compare a folder's files with its manifest, whoever signed that.

    :param folder: of a snapshot
    :raises DamagedError: naming the first that isn't what was written, or the manifest
    """
    open_regular(folder / MANIFEST).close()
    Manifest(folder, trust=True).check_all()


def untrusted(folder: Path, reason: str) -> UntrustedError:
    """Return the one line that says why a snapshot isn't read, and what to do."""
    return UntrustedError(
        f"{folder} holds pickles, which can run code, and {reason}: if you trust who wrote it, "
        "pass `trust=True` (`sb3-moe study run --trust`)"
    )


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading that is no link, pipe or device.

    :raises DamagedError: if it is, or isn't there
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb")
    except OSError as error:
        name = f"{path.parent.name}/{path.name}"
        raise DamagedError(f"{name} can't be read: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DamagedError(f"{path.parent.name}/{path.name} is no regular file")
    return file


def _read_manifest(folder: Path) -> tuple[dict[str, Any], str | None]:
    with open_regular(folder / MANIFEST) as file:
        data = file.read(_MAX_MANIFEST)
    what = f"{folder.name}/{MANIFEST}"
    try:
        found = checked_type(dict, strict_json.loads(data, what), what)
        if set(found) != {"format", "files", "hmac_sha256"} or found["format"] != _FORMAT:
            raise UnsafeFileError("it is no list of a snapshot's files")
        for name, entry in checked_type(dict, found["files"], "files").items():
            _check_entry(name, entry)
        if not isinstance(found["hmac_sha256"], str | None):
            raise UnsafeFileError("it has an `hmac_sha256` that is no text")
    except UnsafeFileError as error:
        raise DamagedError(f"{what} is none: {error}") from error
    return found["files"], found["hmac_sha256"]


def _check_entry(name: str, entry: Any) -> None:
    if Path(name).name != name:
        raise UnsafeFileError(f"it names {name[:60]!r}, which is no file of the folder")
    is_entry = isinstance(entry, dict) and set(entry) == {"bytes", "sha256"}
    if not is_entry or type(entry["bytes"]) is not int or entry["bytes"] < 0:
        raise UnsafeFileError("it has a file without bytes and sha256")
    if not isinstance(entry["sha256"], str | None):
        raise UnsafeFileError("it has a `sha256` that is no text")


def _check_signature(folder: Path, files: dict[str, Any], signature: str | None) -> None:
    if signature is None:
        raise untrusted(folder, f"its {MANIFEST} is not signed")
    try:
        signed = is_signature(_message(files), signature)
    except KeyFileError as error:
        raise untrusted(folder, str(error)) from error
    if not signed:
        raise untrusted(
            folder,
            f"its {MANIFEST} is not signed with your key {key_path()} (on another machine, let "
            f"{VARIABLE} name a copy of the key that signed it)",
        )


def _digest(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
