"""Files as a stranger may forge them: a good one, and any change to it."""

from __future__ import annotations

import json
import struct
import zipfile
from typing import Any

MODEL, ARRAYS = "model.json", "arrays.safetensors"


def parts_of(path: Any) -> dict[str, bytes]:
    """Return a file's entries by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def forge(path: Any, parts: Any, compression: int = zipfile.ZIP_STORED) -> Any:
    """Write entries, a dict or a list of pairs, and return the path."""
    pairs = parts.items() if isinstance(parts, dict) else parts
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in pairs:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return path


def changed(parts: dict[str, bytes], at: tuple[Any, ...], value: Any) -> dict[str, bytes]:
    """Return the entries with another value at a place of the model's JSON.

    :param at: keys and indices
    :param value: of JSON, or ``DROP``
    """
    state = json.loads(parts[MODEL])
    inner = state
    for key in at[:-1]:
        inner = inner[key]
    if value is DROP:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return parts | {MODEL: json.dumps(state).encode()}


DROP = object()


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where every value of some JSON stands."""
    found = [at] if at else []
    if isinstance(value, dict):
        return found + [p for key, each in value.items() for p in places(each, (*at, key))]
    if isinstance(value, list):
        return found + [p for i, each in enumerate(value) for p in places(each, (*at, i))]
    return found


def header_of(data: bytes) -> dict[str, Any]:
    """Return the header of safetensors."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header


def with_header(data: bytes, header: Any, length: int | None = None) -> bytes:
    """Return safetensors with another header.

    :param header: JSON, or bytes as they are
    :param length: what the file says that the header has; None: the truth
    """
    (old,) = struct.unpack("<Q", data[:8])
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data[8 + old :]
