"""Files as a stranger may forge them: a good one, and any change to it."""

import json
import struct
from typing import Any

import safetensors.torch
import torch as th

from sb3_moe.saving.values import pack

DROP = object()


def parts_of(path: Any) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    """Return a file's plain values, and its tensors by name."""
    data = path.read_bytes()
    state = json.loads(header_of(data)["__metadata__"]["model"])
    tensors = safetensors.torch.load(data)
    return state, {name: each for name, each in tensors.items() if name != "crc32"}


def forge(path: Any, state: Any, tensors: dict[str, th.Tensor]) -> Any:
    """Write values and tensors with the checksum that they have, and return the path."""
    path.write_bytes(pack(state, tensors))
    return path


def changed(state: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a file's values with another one at a place.

    :param at: keys and indices
    :param value: of JSON, or ``DROP``
    """
    state = json.loads(json.dumps(state))
    inner = state
    for key in at[:-1]:
        inner = inner[key]
    if value is DROP:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return state


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where every value of some JSON stands."""
    found = [at] if at else []
    if isinstance(value, dict):
        return found + [p for key, each in value.items() for p in places(each, (*at, key))]
    if isinstance(value, list):
        return found + [p for i, each in enumerate(value) for p in places(each, (*at, i))]
    return found


def option(state: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return a file's values with another option of its policy."""
    pairs = state["attributes"]["policy_kwargs"]["dict"]
    kept = [pair for pair in pairs if pair[0] != name]
    return changed(state, ("attributes", "policy_kwargs", "dict"), [*kept, [name, value]])


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
