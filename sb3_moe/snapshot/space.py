"""A space and where its random generator stands, which DQN and warm-up draw actions from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.spaces import decode_space, encode_space
from sb3_moe.saving.values import Decoder, Encoder
from sb3_moe.snapshot.values import Reader, Writer

_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_SPACE = "space/"


def encode_space_with_generator(space: Any, writer: Writer) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the JSON of a space with its generator, and its arrays; None if it can't be so.

    :param space: of any kind
    :param writer: keeps the generator's arrays
    """
    encoder = Encoder()
    try:
        value = {
            "space": encode_space(encoder, space),
            "generator": _encode_generator(space._np_random, writer),
        }
    except (TypeError, ValueError):
        return None, {}
    return value, {f"{_SPACE}{name}": array for name, array in encoder.arrays.items()}


def _encode_generator(generator: np.random.Generator | None, writer: Writer) -> Any:
    if generator is None:
        return None
    kind = type(generator.bit_generator).__name__
    if kind not in _BIT_GENERATORS:
        raise TypeError(f"{kind} is no bit generator of numpy's")
    return [kind, writer.encode(generator.bit_generator.state)]


def decode_space_with_generator(
    value: Any, reader: Reader, arrays: Mapping[str, th.Tensor]
) -> spaces.Space[Any]:
    """Return the space that :func:`encode_space_with_generator` wrote.

    :param value: the JSON
    :param reader: has the generator's arrays
    :param arrays: those of the file
    :raises UnsafeFileError: if it is none
    """
    own = {
        name.removeprefix(_SPACE): tensor.numpy()
        for name, tensor in arrays.items()
        if name.startswith(_SPACE)
    }
    space = decode_space(Decoder(own, {}), value["space"])
    if value["generator"] is not None:
        kind, state = value["generator"]
        if kind not in _BIT_GENERATORS:
            raise UnsafeFileError(f"it has a generator of the unknown kind {kind!r:.60}")
        bits = getattr(np.random, kind)()
        bits.state = reader.decode(state)
        space._np_random = np.random.Generator(bits)
    return space
