"""A key of the user's own, with which files are signed that only the user's programs should read.

Only its owner can read it, so that whoever can write into a folder can't sign what lies there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from sb3_moe.files.atomic import temporary_name

#: Names another file, such as one that all nodes of a cluster see.
VARIABLE = "SB3_MOE_KEY_FILE"
_FEWEST, _MOST = 32, 4096


class KeyFileError(ValueError):
    """There is no key that could be used; the message says why, and what to do."""


def key_path() -> Path:
    """Return where the key lies, or is to lie."""
    if chosen := os.environ.get(VARIABLE):
        return Path(os.path.expanduser(chosen))
    configuration = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(configuration) / "sb3_moe" / "key"


def chosen_key() -> dict[str, str]:
    """Return the variable that names another key, for processes elsewhere; empty if none does."""
    return {VARIABLE: str(key_path())} if os.environ.get(VARIABLE) else {}


def sign(message: bytes, *, make: bool = False) -> str:
    """Return the HMAC-SHA256 of a message under the user's key.

    :param message: what is signed
    :param make: make a key if there is none
    :raises KeyFileError: if there is none, none can be made, or others can read it
    """
    path = key_path()
    # Else whoever made the folder in which a program is started could have made the key.
    if not path.is_absolute():
        raise KeyFileError(f"the key's path must be absolute, got {path}")
    try:
        if make and not path.exists():
            _make(path)
        key = _read(path)
    except OSError as error:
        raise KeyFileError(f"the key {path} can't be used: {error.strerror or error}") from error
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def is_signature(message: bytes, signature: str) -> bool:
    """Say whether a message was signed with the user's key.

    :raises KeyFileError: if there is no key, or others can read it
    """
    return hmac.compare_digest(sign(message).encode(), signature.encode())


def _make(path: Path) -> None:
    """Write a new key under another name first: whoever finds the file finds a whole key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = temporary_name(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
        try:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
            # Unlike a rename, this leaves a key alone that another process has made meanwhile.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()


def _read(path: Path) -> bytes:
    # A pipe would keep us waiting.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        _check(path, os.fstat(file.fileno()))
        key = file.read(_MOST + 1).strip()
    if not _FEWEST <= len(key) <= _MOST:
        raise KeyFileError(
            f"the key {path} must have {_FEWEST} to {_MOST} bytes, got {len(key)}: delete it, and "
            "a new one is made"
        )
    return key


def _check(path: Path, status: os.stat_result) -> None:
    """Refuse a key that others know, as ssh does.

    :raises KeyFileError: saying what to do
    """
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"the key {path} must be a regular file")
    if os.name != "posix":
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"the key {path} has mode {mode:04o}, and others may know it: if they can't, chmod 600 "
            "it, else delete it, and a new one is made"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"the key {path} belongs to another user, {status.st_uid}")
