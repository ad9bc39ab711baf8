"""What a run holds beside its model, as JSON with its arrays beside, exactly as it was.

Plain values stay as they are. ``{"tuple": [...]}``, ``{"dict": {...}}``, ``{"int": "..."}`` beyond
64 bits, ``{"float": "nan"}``, ``{"scalar": ["float32", 1.5]}``, ``{"array": "3"}``,
``{"tensor": "3"}``, ``{"deque": [maxlen, [...]]}``, ``{"lstm": [pi, vf]}``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_moe.saving.classes import lstm_states
from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.strict_json import MAX_INT
from sb3_moe.saving.tensors import DTYPES as TENSORS_BY_NAME
from sb3_moe.saving.values import DTYPES, checked_type

_MOST_DIGITS = 80


class Writer:
    """Turns values into JSON and collects their arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray | th.Tensor] = {}

    def encode(self, value: Any) -> Any:
        """Return a value's JSON; of exactly these types, since others may hold more.

        :raises TypeError: if it is, or holds, something else
        """
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < MAX_INT else {"int": str(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list:
            return [self.encode(each) for each in value]
        if kind is tuple:
            return {"tuple": [self.encode(each) for each in value]}
        if kind is dict and all(type(key) is str for key in value):
            return {"dict": {key: self.encode(each) for key, each in value.items()}}
        if kind is deque:
            return {"deque": [value.maxlen, [self.encode(each) for each in value]]}
        return self._encode_array(value)

    def _encode_array(self, value: Any) -> Any:
        if isinstance(value, np.generic) and value.dtype.name in DTYPES:
            return {"scalar": [value.dtype.name, self.encode(value.item())]}
        if type(value) is np.ndarray and value.dtype.isnative and value.dtype.name in DTYPES:
            return {"array": self._keep(value)}
        if type(value) is th.Tensor and _is_plain(value):
            return {"tensor": self._keep(value)}
        if (lstm := lstm_states()) is not None and type(value) is lstm:
            return {"lstm": [self.encode(each) for each in value]}
        raise TypeError(f"{type(value).__name__} is no plain value, array or tensor")

    def _keep(self, value: np.ndarray | th.Tensor) -> str:
        name = str(len(self.arrays))
        self.arrays[name] = value
        return name


def _is_plain(tensor: th.Tensor) -> bool:
    """Say whether a tensor is its numbers and nothing else."""
    is_dense = tensor.layout is th.strided and tensor.device.type == "cpu"
    return is_dense and tensor.dtype in TENSORS_BY_NAME.values() and not tensor.requires_grad


class Reader:
    """Turns JSON into values.

    :param arrays: by name
    """

    def __init__(self, arrays: Mapping[str, th.Tensor]) -> None:
        self._arrays = arrays

    def decode(self, value: Any) -> Any:
        """Return the value of its JSON.

        :raises UnsafeFileError: if it is none
        """
        if value is None or isinstance(value, bool | str | int | float):
            return value
        if isinstance(value, list):
            return [self.decode(each) for each in value]
        if not isinstance(value, dict) or len(value) != 1:
            raise UnsafeFileError("it holds an object without one kind")
        ((kind, content),) = value.items()
        match kind:
            case "int" if isinstance(content, str) and len(content) <= _MOST_DIGITS:
                return int(content)
            case "float" if content in ("nan", "inf", "-inf"):
                return float(content)
            case "tuple":
                return tuple(self.decode(each) for each in checked_type(list, content, kind))
            case "dict":
                entries = checked_type(dict, content, kind).items()
                return {key: self.decode(each) for key, each in entries}
            case "array":
                return self._array(content).numpy()
            case "tensor":
                return self._array(content)
        return self._decode_pair(kind, checked_type(list, content, kind))

    def _array(self, name: Any) -> th.Tensor:
        if not isinstance(name, str) or name not in self._arrays:
            raise UnsafeFileError(f"it names the array {str(name)[:60]!r}, which it hasn't")
        return self._arrays[name]

    def _decode_pair(self, kind: str, content: list[Any]) -> Any:
        match kind, content:
            case "scalar", [name, value] if name in DTYPES:
                return np.dtype(name).type(self.decode(value))
            case "deque", [None | int() as maxlen, list(items)]:
                return deque(map(self.decode, items), maxlen)
            case "lstm", [pi, vf] if (lstm := lstm_states()) is not None:
                return lstm(self.decode(pi), self.decode(vf))
        raise UnsafeFileError(f"it holds something of the unknown kind {kind[:60]!r}")
