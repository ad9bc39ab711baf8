"""The file of a saved model: one of safetensors, with JSON among its metadata."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import safetensors.torch
import torch as th

#: The most bytes before the numbers: the JSON, and the names and shapes of tensors.
MAX_HEADER = 2**21
_NOT_OURS = (
    "sb3_moe.save didn't write it; a file of SB3's model.save is opened by PPO.load or its like"
)


class UnsafeFileError(ValueError):
    """A file that can't be opened safely, and what is wrong with it, in one line."""


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn whatever a file's contents lead to into one line that names the file.

    :param path: the file
    :raises MemoryError: if there is too little memory here, which is no fault of the file's
    :raises UnsafeFileError: in place of any other exception
    """
    try:
        yield
    except (MemoryError, th.OutOfMemoryError):
        raise
    except Exception as error:  # contents can be wrong in any way
        reason = str(error)
        if not isinstance(error, UnsafeFileError):
            reason = f"it describes no model that can be built ({type(error).__name__}: {error})"
        line = " ".join(reason.split())
        line = line if len(line) <= 400 else f"{line[:400]} ..."
        raise UnsafeFileError(f"{path.name} can't be opened: {line}") from error


def pack(state: Mapping[str, Any], tensors: Mapping[str, th.Tensor]) -> bytes:
    """Return a file's contents.

    :param state: plain values
    :param tensors: by name, none of which needs to be contiguous or on the CPU
    :raises ValueError: if the values and names are too long
    """
    own, storages = {}, set()
    for name, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        if (storage := tensor.untyped_storage().data_ptr()) in storages:
            # safetensors refuses what shares memory, such as two views of one tensor.
            tensor = tensor.clone()
        storages.add(storage)
        own[name] = tensor
    said = json.dumps(state, allow_nan=False)
    # Among the tensors, since safetensors writes metadata in any order.
    own["crc32"] = th.tensor(_checksum(said, own))
    data: bytes = safetensors.torch.save(own, {"model": said})
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise ValueError(
            "a model's arguments and the names of its tensors must take at most "
            f"{MAX_HEADER:,} bytes, and these take {length:,}: give long arguments as arrays"
        )
    return data


def unpack(file: IO[bytes], max_bytes: float) -> tuple[Any, dict[str, th.Tensor]]:
    """Return what :func:`pack` was given.

    :param file: open for reading
    :param max_bytes: the most that the file may hold
    :raises UnsafeFileError: if it is no such file
    """
    size, start = os.fstat(file.fileno()).st_size, file.read(8)
    if size > max_bytes:
        raise UnsafeFileError(
            f"it has {size} bytes and `max_bytes` is {max_bytes}: pass max_bytes={2 * size} if it "
            "is yours"
        )
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MAX_HEADER:
        raise UnsafeFileError(_NOT_OURS)
    data = start + file.read()
    try:
        header = json.loads(data[8 : 8 + length])
        tensors: dict[str, th.Tensor] = safetensors.torch.load(data)
        said = header["__metadata__"]["model"]
        state = json.loads(said, parse_constant=_no_number)
        crc = int(tensors.pop("crc32"))
    except Exception as error:  # the library's errors have no class in common
        raise UnsafeFileError(f"{_NOT_OURS} ({type(error).__name__}: {error})") from error
    if crc != _checksum(said, tensors):
        raise UnsafeFileError("it is damaged: its checksum is another")
    return state, tensors


def check_forms(what: str, own: Mapping[str, th.Tensor], found: Mapping[str, th.Tensor]) -> None:
    """Compare names, dtypes and shapes of tensors.

    :param what: the part of the file
    :param own: as the model has them
    :param found: as the file has them
    :raises UnsafeFileError: naming a difference
    """
    ours, theirs = (
        {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in each.items()}
        for each in (own, found)
    )
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise UnsafeFileError(
                f"its {what} has {name[:60]!r} as {theirs.get(name)} where the model has "
                f"{ours.get(name)}"
            )


def _checksum(said: str, tensors: Mapping[str, th.Tensor]) -> int:
    """Return a checksum against damage, not against forgery."""
    crc = zlib.crc32(said.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].reshape(-1).view(th.uint8).numpy().data, crc)
    return crc


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}")
