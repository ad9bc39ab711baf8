"""Ask of what is about to be written what opening it will ask, by the same rules."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.saving import archive, strict_json
from sb3_moe.saving.arguments import decode_arguments
from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.networks import decode_optimizers, optimizers_of
from sb3_moe.saving.normalizer import SavedNormalizer
from sb3_moe.saving.remembered import set_remembered
from sb3_moe.saving.spaces import decode_space
from sb3_moe.saving.tensors import form_of
from sb3_moe.saving.values import Decoder, Encoder


def check_readable(
    model: BaseAlgorithm, said: bytes, encoder: Encoder, states: Mapping[str, th.Tensor]
) -> None:
    """Raise unless a file with this can be opened.

    :param model: what is saved
    :param said: the JSON of the model
    :param encoder: has its arrays, and what is the user's own
    :param states: of its optimisers, by name
    :raises ValueError: saying what can't be read
    """
    decoder = Decoder(encoder.arrays, encoder.own)
    forms = {name: form_of(tensor) for name, tensor in states.items()}
    nobody: Any = SimpleNamespace()
    try:
        state = strict_json.loads(said, archive.MODEL)
        for space in ("observation_space", "action_space"):
            decode_space(decoder, state[space])
        decode_arguments(decoder, state)
        if state["normalizer"] is not None:
            SavedNormalizer(decoder, state["normalizer"])
        decode_optimizers(optimizers_of(model), decoder, state["optimizers"], forms)
        set_remembered(decoder, state["remembered"], nobody)
    except UnsafeFileError as error:
        raise ValueError(f"`model` can't be saved, since no file of it opens: {error}") from error
