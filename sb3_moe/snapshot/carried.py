"""What SB3 makes anew when it goes on with a saved model, kept: recurrent state and noise.

``load`` forgets the recurrent state, ``learn`` begins by resetting the action noise, and a rollout
by drawing gSDE's noise, before a callback can save it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise


class Carried(NamedTuple):
    """What a rollout takes over.

    :param last: what the rollout before left, SB3's ``_last_*`` attributes
    :param sde: gSDE's matrices, if this rollout has drawn its own already
    :param shares_space: whether model and environment draw from one action space
    :param device: the type of device on which the model was trained
    """

    last: dict[str, Any]
    sde: dict[str, th.Tensor]
    shares_space: bool
    device: str


def get_carried(model: BaseAlgorithm, *, drawn: bool) -> Carried:
    """Return what the next rollout takes over.

    :param model: with its environment
    :param drawn: whether that rollout has drawn gSDE's noise
    """
    last = {name: value for name, value in vars(model).items() if name.startswith("_last_")}
    owner = _sde_owner(model)
    noise = vars(owner.action_dist) if owner is not None and drawn else {}
    sde = {name: noise[name].detach() for name in _MATRICES if name in noise}
    assert model.env is not None
    shares_space = model.action_space is model.env.action_space
    return Carried(_moved(last, "cpu"), _moved(sde, "cpu"), shares_space, model.device.type)


def set_carried(model: BaseAlgorithm, carried: Carried) -> None:
    """Put back what the next rollout takes over.

    :param model: as loaded
    :param carried: what :func:`get_carried` returned
    """
    vars(model).update(_moved(carried.last, model.device))
    owner = _sde_owner(model)
    if owner is not None and carried.sde:
        vars(owner.action_dist).update(_moved(carried.sde, model.device))
        owner.action_dist = _Drawn(owner)


def keep_action_noise(model: BaseAlgorithm) -> None:
    """Keep the action noise of a loaded model from being reset when ``learn`` begins."""
    noise = model.action_noise
    if noise is not None and (model.n_envs == 1 or isinstance(noise, VectorizedActionNoise)):
        model.action_noise = _Going(model, noise)


def noise_of(model: BaseAlgorithm) -> ActionNoise | None:
    """Return a model's action noise itself, whatever stands in for it."""
    noise: ActionNoise | None = getattr(model, "action_noise", None)
    return noise.noise if isinstance(noise, _Going) else noise


class _Drawn(StateDependentNoiseDistribution):
    """Stand in for gSDE's noise until it would be drawn once more, and then give way."""

    def __init__(self, owner: Any) -> None:
        vars(self).update(vars(owner.action_dist))
        self._owner, self._noise = owner, owner.action_dist

    def sample_weights(self, log_std: th.Tensor, batch_size: int = 1) -> None:
        self._owner.action_dist = self._noise


class _Going(VectorizedActionNoise):
    """Stand in for an action noise until it would be reset, and then give way."""

    def __init__(self, model: BaseAlgorithm, noise: ActionNoise) -> None:
        self._model, self.noise = model, noise
        # What SB3 and `sb3_moe.save` ask for.
        self._base_noise = getattr(noise, "base_noise", noise)

    def reset(self, indices: Iterable[int] | None = None) -> None:
        self._model.action_noise = self.noise

    def __call__(self) -> np.ndarray:
        return self.noise()

    def __repr__(self) -> str:
        return repr(self.noise)

    def __reduce__(self) -> Any:
        # A model that is saved meanwhile has its own noise.
        return copy.copy, (self.noise,)


_MATRICES = ("exploration_mat", "exploration_matrices")


def _sde_owner(model: BaseAlgorithm) -> Any:
    """Return the module that explores with gSDE, if there is one."""
    owner = getattr(model, "actor", model.policy)
    is_sde = isinstance(getattr(owner, "action_dist", None), StateDependentNoiseDistribution)
    return owner if is_sde else None


def _moved(value: Any, device: th.device | str) -> Any:
    """Move the tensors of a nested value to a device."""
    if isinstance(value, th.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    if isinstance(value, tuple):
        parts = [_moved(each, device) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
