"""Named tensors as safetensors: what a header promises is checked before the data is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import safetensors.torch
import torch as th

from sb3_moe.saving import strict_json
from sb3_moe.saving.errors import UnsafeFileError

DTYPES: dict[str, th.dtype] = {
    "BOOL": th.bool,
    "U8": th.uint8,
    "I8": th.int8,
    "U16": th.uint16,
    "I16": th.int16,
    "U32": th.uint32,
    "I32": th.int32,
    "U64": th.uint64,
    "I64": th.int64,
    "F16": th.float16,
    "BF16": th.bfloat16,
    "F32": th.float32,
    "F64": th.float64,
}
_MAX_HEADER = 2**24


class Form(NamedTuple):
    """What a tensor looks like."""

    dtype: th.dtype
    shape: tuple[int, ...]


def form_of(tensor: th.Tensor) -> Form:
    """Return a tensor's dtype and shape."""
    return Form(tensor.dtype, tuple(tensor.shape))


def pack(tensors: Mapping[str, th.Tensor | np.ndarray]) -> bytes:
    """Write tensors, none of which needs to be contiguous or on the CPU.

    :param tensors: by name
    :raises ValueError: if one has a dtype that safetensors doesn't know
    """
    own, storages = {}, set()
    for name, value in tensors.items():
        tensor = value if isinstance(value, th.Tensor) else from_numpy(name, value)
        if tensor.dtype not in DTYPES.values():
            raise ValueError(f"{name} can't be saved: its dtype is {tensor.dtype}")
        tensor = tensor.detach().cpu().contiguous()
        if (storage := tensor.untyped_storage().data_ptr()) in storages:
            # safetensors refuses what shares memory, such as two views of one tensor.
            tensor = tensor.clone()
        storages.add(storage)
        own[name] = tensor
    return safetensors.torch.save(own)


def write_tensors(file: BinaryIO, tensors: Mapping[str, th.Tensor]) -> None:
    """Write tensors as :func:`pack` does, one after the other: they may fill the memory.

    :param file: open for writing
    :param tensors: by name
    """
    header, at = {}, 0
    # The widest first, so that each begins where its numbers may.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    known = {dtype: name for name, dtype in DTYPES.items()}
    for name in names:
        form = form_of(tensors[name])
        end = at + _num_bytes(form)
        header[name] = {
            "dtype": known[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        if tensors[name].numel():
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(th.uint8).numpy().data)


def check_array(name: str, array: np.ndarray) -> None:
    """Raise unless an array is one of numbers that a tensor can hold.

    :param name: what it belongs to
    :param array: of any kind
    :raises ValueError: if it isn't
    """
    if array.dtype.kind not in "biuf" or not array.dtype.isnative:
        raise ValueError(f"{name} can't be saved: it is an array of {array.dtype}")


def from_numpy(name: str, array: np.ndarray) -> th.Tensor:
    """Return an array as a tensor, views and what can't be written to as well.

    :param name: what it belongs to
    :param array: of numbers
    :raises ValueError: if it is none
    """
    check_array(name, array)
    # A copy: torch warns of arrays that can't be written to.
    return th.from_numpy(np.array(array, order="C"))


class Source(Protocol):
    """Where entries are read from: an archive, or a folder's files."""

    def size(self, name: str) -> int:
        """Return the length of an entry in bytes."""
        ...

    def read_parts(self, name: str, sizes: Iterable[int]) -> Iterator[bytes] | Iterator[bytearray]:
        """Read an entry part by part."""
        ...


class TensorFile:
    """Tensors in one entry of an archive, whose header has been read.

    :param archive: the file
    :param name: of the entry
    :raises UnsafeFileError: if the header isn't one, or doesn't fit the data's length
    """

    def __init__(self, archive: Source, name: str) -> None:
        self._archive, self._name = archive, name
        size = archive.size(name)
        if size < 8:
            raise UnsafeFileError(f"{name} is too short for a header")
        (start,) = archive.read_parts(name, [8])
        length = int.from_bytes(start, "little")
        if length > min(size - 8, _MAX_HEADER):
            raise UnsafeFileError(f"{name} says that its header has {length} bytes of {size}")
        _, text = archive.read_parts(name, [8, length])
        #: dtype and shape by name, in the order of the data
        self.forms = _forms(
            strict_json.loads(bytes(text), f"{name}'s header"), name, size - 8 - length
        )
        self._begin = 8 + length

    def read(self) -> Iterator[tuple[str, th.Tensor]]:
        """Yield names and tensors, on the CPU, one after the other.

        :raises UnsafeFileError: if the data is damaged, at the end at the latest
        """
        sizes = [self._begin, *map(_num_bytes, self.forms.values())]
        parts = self._archive.read_parts(self._name, sizes)
        next(parts)
        for (name, form), part in zip(self.forms.items(), parts, strict=True):
            if part:
                own = part if isinstance(part, bytearray) else bytearray(part)
                yield name, th.frombuffer(own, dtype=form.dtype).reshape(form.shape)
            else:
                yield name, th.empty(form.shape, dtype=form.dtype)

    def read_as(self, expected: Mapping[str, Form]) -> Iterator[tuple[str, th.Tensor]]:
        """Yield names and tensors, once the header promises exactly what is expected.

        :param expected: by name
        :raises UnsafeFileError: naming the first difference
        """
        check_forms(self._name, self.forms, expected)
        return self.read()


def check_forms(what: str, found: Mapping[str, Form], expected: Mapping[str, Form]) -> None:
    """Compare names, dtypes and shapes.

    :raises UnsafeFileError: naming the first difference
    """
    if missing := [name for name in expected if name not in found]:
        raise UnsafeFileError(f"{what} lacks {missing[0]!r} ({len(missing)} are missing)")
    if unknown := [name for name in found if name not in expected]:
        raise UnsafeFileError(f"{what} has {unknown[0][:60]!r}, which the model hasn't")
    for name, form in expected.items():
        if found[name] != form:
            raise UnsafeFileError(
                f"{what} has {name!r} as {found[name].dtype} {list(found[name].shape)} where the "
                f"model needs {form.dtype} {list(form.shape)}"
            )


def _forms(header: Any, what: str, size: int) -> dict[str, Form]:
    if not isinstance(header, dict):
        raise UnsafeFileError(f"{what}'s header is no object")
    forms, spans = {}, []
    for name, entry in header.items():
        form, begin, end = _form(entry, f"{what}'s header: {name[:60]!r}")
        if end - begin != _num_bytes(form):
            raise UnsafeFileError(f"{what} gives {name[:60]!r} more or less bytes than its shape")
        forms[name] = form
        spans.append((begin, end, name))
    at = 0
    for begin, end, _ in sorted(spans):
        if begin != at:
            raise UnsafeFileError(f"{what} has tensors that overlap or leave gaps")
        at = end
    if at != size:
        raise UnsafeFileError(f"{what} has {size} bytes of data for tensors of {at}")
    return {name: forms[name] for _, _, name in sorted(spans)}


def _num_bytes(form: Form) -> int:
    return math.prod(form.shape) * form.dtype.itemsize


def _form(entry: Any, what: str) -> tuple[Form, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UnsafeFileError(f"{what} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnsafeFileError(f"{what} has no known dtype")
    if not (_counts(shape) and _counts(offsets) and len(offsets) == 2):
        raise UnsafeFileError(f"{what} has a shape or offsets that are no counts")
    return Form(DTYPES[dtype], tuple(shape)), offsets[0], offsets[1]


def _counts(values: Any) -> bool:
    """Say whether this is a short list of whole numbers from 0."""
    return (
        isinstance(values, list)
        and len(values) <= 32
        and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
    )
