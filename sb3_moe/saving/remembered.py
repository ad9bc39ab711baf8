"""What callbacks leave on a model, so that a run which goes on with it goes on with them too."""

from __future__ import annotations

import copy
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.values import Decoder, Encoder, checked_type

#: The attributes, each a dict of plain values and arrays.
REMEMBERED = ("task_switches", "anchors", "frozen_routers", "initial_weights")


def encode_remembered(encoder: Encoder, model: BaseAlgorithm) -> dict[str, Any]:
    """Return the JSON of what there is, empty where no callback left anything."""
    found = {name: vars(model).get(name) for name in REMEMBERED}
    return {name: encoder.encode(name, value) for name, value in found.items() if value}


def set_remembered(decoder: Decoder, value: Any, model: BaseAlgorithm) -> None:
    """Put back what :func:`encode_remembered` returned.

    :raises UnsafeFileError: if it is something else
    """
    for name, each in checked_type(dict, value, "remembered").items():
        if name not in REMEMBERED:
            raise UnsafeFileError(f"it remembers {name[:60]!r}, which no callback leaves")
        # A copy: callbacks write into their arrays.
        decoded = copy.deepcopy(decoder.decode(name, each))
        vars(model)[name] = checked_type(dict, decoded, name)
