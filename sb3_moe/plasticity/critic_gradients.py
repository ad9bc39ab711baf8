"""The gradient with which a critic that has an optimiser of its own took its last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch.utils.hooks import RemovableHandle

from sb3_moe.networks import networks_of

Gradients = Mapping[th.Tensor, th.Tensor | None]


class CriticGradients:
    """Keep the critic's gradient as its optimiser saw it (SAC, TD3, DDPG, TQC, CrossQ).

    The actor's loss goes through the critic after the critic's own step, and adds to what is in
    ``.grad`` there; SB3 clears that only before the critic's next step.
    """

    def __init__(self) -> None:
        self._kept: dict[th.Tensor, th.Tensor | None] = {}
        self._handle: RemovableHandle | None = None

    def attach(self, policy: BasePolicy) -> None:
        """Follow a policy's critic from now on.

        :param policy: of any algorithm; where one optimiser has all weights, there is nothing to do
        """
        self.detach()
        optimizer = networks_of(policy).critic_optimizer()
        if optimizer is not None:
            # Until it steps, nothing is known.
            self._kept = dict.fromkeys(_parameters(optimizer))
            self._handle = optimizer.register_step_post_hook(self._keep)

    def detach(self) -> None:
        """Follow it no longer, and forget."""
        self._kept = {}
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def of_last_step(self) -> Gradients:
        """Return the gradient of each of the critic's weights, None where there was none."""
        return self._kept

    def _keep(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        self._kept = {
            parameter: None if parameter.grad is None else parameter.grad.detach().clone()
            for parameter in _parameters(optimizer)
        }


def _parameters(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
