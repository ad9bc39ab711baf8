"""Spaces as JSON: ``{"Box": {...}}``, the arguments of each kind's constructor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.values import Decoder, Encoder, checked_type

# For each kind of space, what its constructor needs. Bounds lie in full: a few bytes of a file
# can't describe a space that takes memory.
_ARGUMENTS: dict[type[Any], Callable[[Any], dict[str, Any]]] = {
    spaces.Box: lambda space: {"low": space.low, "high": space.high, "dtype": space.dtype},
    spaces.Discrete: lambda space: {
        "n": int(space.n),
        "start": int(space.start),
        "dtype": space.dtype,
    },
    spaces.MultiDiscrete: lambda space: {
        "nvec": space.nvec,
        "start": space.start,
        "dtype": space.dtype,
    },
    # SB3 tells a number from a shape of one axis.
    spaces.MultiBinary: lambda space: {
        "n": int(space.n) if np.ndim(space.n) == 0 else list(space.shape)
    },
    spaces.Text: lambda space: {
        "max_length": space.max_length,
        "min_length": space.min_length,
        "charset": "".join(space.character_list),
    },
}
_KINDS = {kind.__name__: kind for kind in _ARGUMENTS}
_KEYS = {
    "Box": {"low", "high", "dtype"},
    "Discrete": {"n", "start", "dtype"},
    "MultiDiscrete": {"nvec", "start", "dtype"},
    "MultiBinary": {"n"},
    "Text": {"max_length", "min_length", "charset"},
}


def encode_space(encoder: Encoder, space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a space's JSON.

    :param encoder: keeps the arrays
    :param space: Box, Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of spaces
    :raises ValueError: if it is another
    """
    if type(space) is spaces.Dict:
        # A list of pairs: the keys' order is that of the features.
        pairs = [[key, encode_space(encoder, each)] for key, each in space.spaces.items()]
        return {"Dict": pairs}
    if type(space) is spaces.Tuple:
        return {"Tuple": [encode_space(encoder, each) for each in space.spaces]}
    kind = _kind_of(space)
    if kind not in _ARGUMENTS:
        raise ValueError(
            f"a space of {type(space).__module__}.{type(space).__qualname__} can't be saved, got "
            f"{space}: give the environment one of Gymnasium's {', '.join(_KINDS)}, Dict, Tuple"
        )
    own = {key: encoder.encode(key, value) for key, value in _ARGUMENTS[kind](space).items()}
    return {kind.__name__: own}


def made_anew(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return a space of Gymnasium's own classes that is equal to one whose classes are ours.

    :raises ValueError: as of :func:`encode_space`
    """
    encoder = Encoder()
    state = encode_space(encoder, space)
    return decode_space(Decoder(encoder.arrays, {}), state)


def _kind_of(space: spaces.Space[Any]) -> type[Any]:
    """Return a space's class, or that of ours or Gymnasium's behind one that names its tasks."""
    classes = type(space).__mro__ if hasattr(space, "task_names") else ()
    return next((each for each in classes if each in _ARGUMENTS), type(space))


def decode_space(decoder: Decoder, value: Any) -> spaces.Space[Any]:
    """Return the space of its JSON.

    :param decoder: has the arrays
    :param value: the JSON
    :raises UnsafeFileError: if it is none
    """
    if len(checked_type(dict, value, "space")) != 1:
        raise UnsafeFileError("it has a space without one kind")
    ((kind, content),) = value.items()
    if kind == "Dict":
        pairs = [checked_type(list, pair, kind) for pair in checked_type(list, content, kind)]
        return spaces.Dict(
            [(checked_type(str, key, kind), decode_space(decoder, each)) for key, each in pairs]
        )
    if kind == "Tuple":
        entries = checked_type(list, content, kind)
        return spaces.Tuple([decode_space(decoder, each) for each in entries])
    if kind not in _KINDS:
        raise UnsafeFileError(f"it has a space of the unknown kind {kind[:60]!r}")
    if set(checked_type(dict, content, kind)) != _KEYS[kind]:
        raise UnsafeFileError(f"its {kind} space must have {sorted(_KEYS[kind])}")
    own = {key: decoder.decode(key, each) for key, each in content.items()}
    made: spaces.Space[Any] = _KINDS[kind](**own)
    return made
