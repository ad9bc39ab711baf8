"""What SB3 makes anew when it goes on with a saved model, kept: recurrent state and noise.

``load`` forgets the recurrent state, ``learn`` begins by resetting the action noise, and a rollout
by drawing gSDE's noise, before a callback can save it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise

from sb3_moe.saving.model_parts import SCHEDULES, moved

_MATRICES = ("exploration_mat", "exploration_matrices")


def get_rollout_state(model: BaseAlgorithm, *, drawn: bool) -> dict[str, dict[str, Any]]:
    """Return what the next rollout takes over, on the CPU.

    :param model: with its environment
    :param drawn: whether that rollout has drawn gSDE's noise
    """
    found = vars(model)
    kept = [name for name in found if name.startswith("_last_") or name in SCHEDULES]
    owner = _sde_owner(model)
    noise = vars(owner.action_dist) if owner is not None and drawn else {}
    state = {
        "model": {name: found[name] for name in kept},
        "sde": {name: noise[name].detach() for name in _MATRICES if name in noise},
    }
    on_cpu: dict[str, dict[str, Any]] = moved(state, "cpu")
    return on_cpu


def set_rollout_state(model: BaseAlgorithm, state: dict[str, dict[str, Any]]) -> None:
    """Put back what the next rollout takes over.

    :param model: as loaded
    :param state: what :func:`get_rollout_state` returned
    """
    state = moved(state, model.device)
    vars(model).update(state["model"])
    owner = _sde_owner(model)
    if owner is not None and state["sde"]:
        vars(owner.action_dist).update(state["sde"])
        owner.action_dist = _Drawn(owner)


def keep_action_noise(model: BaseAlgorithm) -> None:
    """Keep the action noise of a loaded model from being reset when ``learn`` begins."""
    noise = model.action_noise
    if noise is not None and (model.n_envs == 1 or isinstance(noise, VectorizedActionNoise)):
        model.action_noise = _Going(model, noise)


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


def _sde_owner(model: BaseAlgorithm) -> Any:
    """Return the module that explores with gSDE, if there is one."""
    owner = getattr(model, "actor", model.policy)
    is_sde = isinstance(getattr(owner, "action_dist", None), StateDependentNoiseDistribution)
    return owner if is_sde else None
