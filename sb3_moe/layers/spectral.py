"""A penalty on features that use few directions, or some far more than others (SPHERE).

Shapes: B batch, N tokens per sample, T = B*N rows, E experts, H units of an expert's last hidden
layer, D = E*H, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch as th
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from sb3_moe.layers.experts import Experts
from sb3_moe.layers.routing import Routing

# Norms and penalties are divided by; features without any spread have a penalty of 0.
TINY = 1e-12


def spectral_penalty(phi_TD: th.Tensor) -> th.Tensor:
    """Return |A|^2 - tr(A)^2 / D of A = Phi' Phi / T: 0 where all directions are used alike.

    By way of the smaller of Phi' Phi and Phi Phi', whose numbers are the same (arXiv 2605.04712).

    :param phi_TD: features
    """
    rows, width = phi_TD.shape
    gram = phi_TD @ phi_TD.T if width > rows else phi_TD.T @ phi_TD
    trace = phi_TD.square().sum() / rows
    return (gram / rows).square().sum() - trace.square() / width


def penalty_gradient(phi_TD: th.Tensor) -> th.Tensor:
    """Return the gradient of :func:`spectral_penalty` at the features."""
    rows, width = phi_TD.shape
    small = width > rows
    turned_TD = (phi_TD @ phi_TD.T) @ phi_TD if small else phi_TD @ (phi_TD.T @ phi_TD)
    trace = phi_TD.square().sum() / rows
    return 4 / rows * (turned_TD / rows - trace / width * phi_TD)


def gated_features(experts: Experts, x_BNI: th.Tensor, routing: Routing) -> th.Tensor:
    """Return what the experts' last layers read, weighed by the gates: (T, E, H).

    They are computed apart from the layer's output, and so are the same whichever way that took.

    :param experts: the experts
    :param x_BNI: what they saw
    :param routing: what was decided
    """
    chosen_BNk = routing.experts_BNk
    chosen_Tk = None if chosen_BNk is None else chosen_BNk.flatten(0, 1)
    hidden_TEH = experts.hidden(x_BNI.flatten(0, 1), chosen_Tk)
    return hidden_TEH * routing.gates_BNE.flatten(0, 1).unsqueeze(-1)


class FeaturePenalty(ABC):
    """The penalty of one layer of experts, and how much it counts in an update.

    :param coef: its size, as a share of what the algorithm itself minimises
    """

    def __init__(self, coef: float) -> None:
        self.coef = coef

    @abstractmethod
    def attach(
        self, experts: Experts, x_BNI: th.Tensor, routing: Routing, y_BNO: th.Tensor
    ) -> th.Tensor:
        """Let the penalty count in the update that a forward pass is for.

        :param experts: of the layer
        :param x_BNI: what they saw
        :param routing: what was decided
        :param y_BNO: the layer's output
        :return: the output
        """

    def follow(self, optimizer: th.optim.Optimizer) -> RemovableHandle | None:
        """Count in an optimiser's steps, if that is where the penalty counts.

        :param optimizer: of the tower
        """
        return None


class PenaltyOnTheWay(FeaturePenalty):
    """A penalty whose gradient enters where the features are, on the way back from the loss."""

    def attach(
        self, experts: Experts, x_BNI: th.Tensor, routing: Routing, y_BNO: th.Tensor
    ) -> th.Tensor:
        """Attach the features to the output."""
        phi_TEH = gated_features(experts, x_BNI, routing)
        out: th.Tensor = Attached.apply(  # type: ignore[no-untyped-call]  # torch's has no types
            y_BNO, phi_TEH, routing.gates_BNE.detach(), experts.last_weights(), self
        )
        return out

    @abstractmethod
    def weight(
        self, phi_TD: th.Tensor, own_TD: th.Tensor, losss_TD: th.Tensor, counts_TD: th.Tensor
    ) -> th.Tensor:
        """Return by how much the penalty's gradient is multiplied.

        :param phi_TD: features
        :param own_TD: the penalty's gradient at them
        :param losss_TD: the loss's
        :param counts_TD: which of them reach the output at all
        """


class ByFeatures(PenaltyOnTheWay):
    """Weigh by the sizes of the two gradients at the features: an approximation to ``grad``.

    The loss's gradient at the features is the output's, through the experts' last weights.
    """

    def weight(
        self, phi_TD: th.Tensor, own_TD: th.Tensor, losss_TD: th.Tensor, counts_TD: th.Tensor
    ) -> th.Tensor:
        """Return the ratio of the norms."""
        own, losss = ((each_TD * counts_TD).norm() for each_TD in (own_TD, losss_TD))
        return self.coef * losss / own.clamp_min(TINY)


class ByLoss(PenaltyOnTheWay):
    """Weigh by the sizes of policy loss and entropy term together, and of the penalty.

    No policy sees a loss. That of PPO is, as long as no ratio is clipped, the sum of its own
    derivatives by the log-probabilities, since the ratio is its own derivative; what is clipped
    has none, and doesn't count. The entropy term is linear in the entropies.
    """

    def __init__(self, coef: float) -> None:
        super().__init__(coef)
        self.loss: th.Tensor | None = None

    def watch(self, log_prob_B: th.Tensor, entropy_B: th.Tensor) -> None:
        """Read the loss off the way back through what a policy says of actions.

        :param log_prob_B: log-probabilities of the actions taken
        :param entropy_B: entropies, or what stands for them
        """
        self.loss = None
        if log_prob_B.requires_grad:
            log_prob_B.register_hook(lambda grad_B: self._add(grad_B.sum()))
        if entropy_B.requires_grad:
            values_B = entropy_B.detach()
            entropy_B.register_hook(lambda grad_B: self._add((grad_B * values_B).sum()))

    def _add(self, part: th.Tensor) -> None:
        self.loss = part if self.loss is None else self.loss + part

    def weight(
        self, phi_TD: th.Tensor, own_TD: th.Tensor, losss_TD: th.Tensor, counts_TD: th.Tensor
    ) -> th.Tensor:
        """Return the ratio of the values."""
        if self.loss is None:  # a loss of something else than the actor's decisions
            return phi_TD.new_zeros(())
        return self.coef * self.loss.abs() / spectral_penalty(phi_TD).clamp_min(TINY)


class Attached(th.autograd.Function):
    """Return the output, and give features a gradient whose size depends on the output's."""

    @staticmethod
    def forward(ctx: Any, y_BNO: th.Tensor, *inputs: Any) -> th.Tensor:
        """Pass the output through."""
        phi_TEH, gates_BNE, weight_EHO, ctx.penalty = inputs
        ctx.save_for_backward(phi_TEH, gates_BNE, weight_EHO)
        return y_BNO.view_as(y_BNO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: th.Tensor) -> tuple[th.Tensor | None, ...]:
        """Pass the output's gradient through, and give the features the penalty's, weighed."""
        phi_TEH, gates_BNE, weight_EHO = ctx.saved_tensors
        phi_TD = phi_TEH.flatten(1)
        losss_TEH = th.einsum("to,eho->teh", grads[0].flatten(0, -2), weight_EHO)
        counts_TE1 = (gates_BNE.flatten(0, 1) != 0).unsqueeze(-1)
        counts_TD = counts_TE1.expand_as(phi_TEH).flatten(1)
        own_TD = penalty_gradient(phi_TD)
        weight = ctx.penalty.weight(phi_TD, own_TD, losss_TEH.flatten(1), counts_TD)
        return grads[0], (weight * own_TD).view_as(phi_TEH), None, None, None
