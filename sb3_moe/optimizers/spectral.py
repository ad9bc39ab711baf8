"""The penalty on experts' features, weighed by gradients over all parameters of a tower."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch as th
from torch import nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.layers.aux_loss import without_added_losses
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.routing import Routing
from sb3_moe.layers.spectral import (
    TINY,
    FeaturePenalty,
    gated_features,
    penalty_gradient,
)


class ByGradient(FeaturePenalty):
    """Add the penalty's gradient to that of the loss in an optimiser's steps.

    It is taken in the forward pass, and multiplied by ``coef`` and the ratio of both gradients'
    norms over the tower when the optimiser is about to step: after the algorithm has clipped the
    loss's, and only if it steps.

    :param coef: size of its gradient, as a share of the loss's
    :param parameters: of the tower, from features to output
    """

    def __init__(self, coef: float, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(coef)
        self._parameters = list(dict.fromkeys(parameters))
        self._own: list[tuple[nn.Parameter, th.Tensor | None]] | None = None

    def follow(self, optimizer: th.optim.Optimizer) -> RemovableHandle:
        """Count in the optimizer's steps."""
        return optimizer.register_step_pre_hook(self._add)

    def attach(
        self, experts: Experts, x_BNI: th.Tensor, routing: Routing, y_BNO: th.Tensor
    ) -> th.Tensor:
        """Keep the penalty's gradient until the next step; that of the last pass counts."""
        phi_TD = gated_features(experts, x_BNI, routing).flatten(1)
        # A router that is held learns nothing for a while.
        learned = [p for p in self._parameters if p.requires_grad]
        # Written out, the penalty's gradient takes a product less.
        own_TD = penalty_gradient(phi_TD.detach())
        with without_added_losses():  # those of the layers before
            grads = th.autograd.grad(phi_TD, learned, own_TD, retain_graph=True, allow_unused=True)
        self._own = list(zip(learned, grads, strict=True))
        return y_BNO

    @th.no_grad()
    def _add(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        found, self._own = self._own, None
        if found is None:
            return
        losss = [p.grad for p in self._parameters if p.grad is not None]
        own = [(p, grad) for p, grad in found if grad is not None and p.grad is not None]
        if not own or not losss:
            return
        norm = total_norm([grad for _, grad in own])
        weight = self.coef * total_norm(losss) / norm.clamp_min(TINY)
        for parameter, grad in own:
            assert parameter.grad is not None
            parameter.grad.add_(weight * grad)


def total_norm(tensors: Sequence[th.Tensor]) -> th.Tensor:
    """Return the norm of all tensors together, without a look at it."""
    return th.stack(th._foreach_norm(list(tensors))).norm()
