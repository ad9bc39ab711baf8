"""The action noise of a model and where it stands, beside the arguments that ``model.moe`` has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

from sb3_moe.snapshot.carried import noise_of

_KNOWN = (NormalActionNoise, OrnsteinUhlenbeckActionNoise)


def is_plain(model: BaseAlgorithm) -> bool:
    """Say whether the noise is none, or of SB3's kinds, all of one kind."""
    noise = noise_of(model)
    if noise is None:
        return True
    kinds = {type(each) for each in _each(noise)}
    return len(kinds) == 1 and kinds <= set(_KNOWN)


def noise_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Return every attribute of every noise, by index and name.

    :param model: with a plain noise
    """
    noise = noise_of(model)
    if noise is None:
        return {}
    state = {
        f"{index}/{name}": value
        for index, each in enumerate(_each(noise))
        for name, value in vars(each).items()
        if name != "_dtype"  # a type, which the arguments have
    }
    return {"n_envs": getattr(noise, "n_envs", None), **state}


def set_noise(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put the noise where it stood.

    :param model: with a new noise of the same arguments
    :param state: of :func:`noise_state`
    """
    if not state:
        return
    noise: Any = model.action_noise
    if state["n_envs"] is not None:
        noise = VectorizedActionNoise(noise, state["n_envs"])
    each = _each(noise)
    for name, value in state.items():
        index, _, attribute = name.partition("/")
        if attribute:
            setattr(each[int(index)], attribute, value)
    model.action_noise = noise


def _each(noise: Any) -> list[Any]:
    """List the noise from which others are made, and those."""
    is_vectorized = type(noise) is VectorizedActionNoise
    return [noise.base_noise, *noise.noises] if is_vectorized else [noise]
