"""The gradient of an actor that steps more seldom than its critic, through files.

TD3's and CrossQ's actor steps in every ``policy_delay``-th update. Who judges by its last gradient
may ask before the next one, and a model that was loaded has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

#: Where a model keeps it, so that all its files do.
KEPT = "actor_gradients"


def _actor(model: Any) -> th.nn.Module | None:
    """Return the actor that steps more seldom, if there is one."""
    return model.actor if getattr(model, "policy_delay", 1) > 1 else None


def remember_actor_gradients(model: BaseAlgorithm) -> None:
    """Keep the gradients that there are on the model, by the name of the actor's parameter.

    :param model: of any algorithm; where no actor is delayed there is nothing to do
    """
    if (actor := _actor(model)) is not None:
        vars(model)[KEPT] = {
            name: parameter.grad.detach().cpu().numpy().copy()
            for name, parameter in actor.named_parameters()
            if parameter.grad is not None
        }


def recall_actor_gradients(model: BaseAlgorithm) -> None:
    """Give an actor without gradients those that its model keeps, until it steps.

    SB3 clears them before it computes the next ones.

    :param model: of any algorithm
    """
    kept: dict[str, npt.NDArray[Any]] = vars(model).get(KEPT, {})
    actor = _actor(model)
    for name, parameter in () if actor is None else actor.named_parameters():
        is_known = name in kept and np.shape(kept[name]) == parameter.shape
        if is_known and parameter.requires_grad and parameter.grad is None:
            parameter.grad = th.as_tensor(kept[name].copy()).to(parameter)
