"""What callbacks and growing leave on a model, so that a run which goes on with it has it too."""

from __future__ import annotations

import copy
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.values import Decoder, Encoder, checked_type

#: The attributes, and what each is, of plain values and arrays.
REMEMBERED: dict[str, Any] = {
    "task_switches": dict,
    "anchors": dict,
    "frozen_routers": dict,
    "initial_weights": dict,
    "actor_gradients": dict,
    "remedies": dict,
    "expert_log": list,
    "task_trained": int | str,
}


def encode_remembered(encoder: Encoder, model: BaseAlgorithm) -> dict[str, Any]:
    """Return the JSON of what there is, empty where nothing was left."""
    found = {name: vars(model).get(name) for name in REMEMBERED}
    left = {name: value for name, value in found.items() if value not in (None, {}, [])}
    return {name: encoder.encode(name, value) for name, value in left.items()}


def set_remembered(decoder: Decoder, value: Any, model: BaseAlgorithm) -> None:
    """Put back what :func:`encode_remembered` returned.

    :raises UnsafeFileError: if it is something else
    """
    for name, each in checked_type(dict, value, "remembered").items():
        if name not in REMEMBERED:
            raise UnsafeFileError(f"it remembers {name[:60]!r}, which nothing leaves")
        # A copy: callbacks write into their arrays.
        decoded = copy.deepcopy(decoder.decode(name, each))
        vars(model)[name] = checked_type(REMEMBERED[name], decoded, name)
