"""A penalty on features that use few directions, or some far more than others (SPHERE).

It is attached to the last layer of experts of a network by a forward hook, while it trains.

Shapes: B batch, N tokens per sample, T = B*N rows, E experts, H units of an expert's last hidden
layer, D = E*H, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch as th
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from sb3_moe.layers import Experts, MoELayer, Routing
from sb3_moe.layers.aux_loss import without_added_losses
from sb3_moe.policies.networks import kind_of, networks_of
from sb3_moe.policies.options import MoEOptions

if TYPE_CHECKING:
    from sb3_moe.policies.looks_inside import LooksInside

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


def gated_features(experts: Experts, x: th.Tensor, routing: Routing) -> th.Tensor:
    """Return what the experts' last layers read, weighed by the gates: (T, E, H).

    They are computed apart from the layer's output, and so are the same whichever way that took.

    :param experts: the experts
    :param x: what they saw
    :param routing: what was decided
    """
    hidden_TEH = experts.hidden(x.flatten(0, -2))  # type: ignore[operator]  # has a width
    return hidden_TEH * routing.gates_BNE.flatten(0, 1).unsqueeze(-1)


class FeaturePenalty(ABC):
    """The penalty of one layer of experts, and how much it counts in an update.

    :param coef: its size, as a share of what the algorithm itself minimizes
    """

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def hook(
        self, layer: MoELayer, args: Any, kwargs: Mapping[str, Any], output: Any
    ) -> tuple[th.Tensor, Routing] | None:
        """Let the penalty count in the update that a forward pass of the layer is for."""
        if not (layer.training and th.is_grad_enabled() and kwargs.get("aux", True)):
            return None
        y, routing = output
        return self.attach(layer.experts, args[0], routing, y), routing

    @abstractmethod
    def attach(self, experts: Experts, x: th.Tensor, routing: Routing, y: th.Tensor) -> th.Tensor:
        """Return the layer's output, with the penalty attached if that is how it works.

        :param experts: of the layer
        :param x: what they saw
        :param routing: what was decided
        :param y: the layer's output
        """


class ByGradient(FeaturePenalty):
    """Add the penalty's gradient to that of the loss in an optimizer's steps.

    It is taken in the forward pass, and multiplied by ``coef`` and the ratio of both gradients'
    norms over the network when the optimizer is about to step: after the algorithm has clipped the
    loss's, and only if it steps.

    :param coef: size of its gradient, as a share of the loss's
    :param parameters: of the network, from features to output
    """

    def __init__(self, coef: float, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(coef)
        self._parameters = list(dict.fromkeys(parameters))
        self._own: list[tuple[nn.Parameter, th.Tensor | None]] | None = None

    def attach(self, experts: Experts, x: th.Tensor, routing: Routing, y: th.Tensor) -> th.Tensor:
        """Keep the penalty's gradient until the next step; that of the last pass counts."""
        phi_TD = gated_features(experts, x, routing).flatten(1)
        # A router that is held learns nothing for a while.
        learned = [p for p in self._parameters if p.requires_grad]
        # Written out, the penalty's gradient takes a product less.
        own_TD = penalty_gradient(phi_TD.detach())
        with without_added_losses():  # those of the layers before
            grads = th.autograd.grad(phi_TD, learned, own_TD, retain_graph=True, allow_unused=True)
        self._own = list(zip(learned, grads, strict=True))
        return y

    @th.no_grad()
    def before_step(self, *args: Any) -> None:
        """Add the gradient: a hook of the optimizer."""
        found, self._own = self._own, None
        losss = [p.grad for p in self._parameters if p.grad is not None]
        own = [(p.grad, g) for p, g in found or () if g is not None and p.grad is not None]
        if not own:
            return
        norm = total_norm([each for _, each in own])
        weight = self.coef * total_norm(losss) / norm.clamp_min(TINY)
        for grad, each in own:
            grad.add_(weight * each)


def total_norm(tensors: Sequence[th.Tensor]) -> th.Tensor:
    """Return the norm of all tensors together, without a look at it."""
    return th.stack(th._foreach_norm(list(tensors))).norm()


class Features(NamedTuple):
    """What is known of the features on the way back from a loss, (T, D) each.

    :param phi: the features
    :param own: the penalty's gradient at them
    :param losss: the loss's gradient at them
    :param reaches: which of them reach the output at all
    """

    phi: th.Tensor
    own: th.Tensor
    losss: th.Tensor
    reaches: th.Tensor


class PenaltyOnTheWay(FeaturePenalty):
    """A penalty whose gradient enters where the features are, on the way back from the loss."""

    def attach(self, experts: Experts, x: th.Tensor, routing: Routing, y: th.Tensor) -> th.Tensor:
        """Attach the features to the output."""
        phi_TEH = gated_features(experts, x, routing)
        weights: th.Tensor = experts.last_weights()  # type: ignore[operator]  # has a width
        out: th.Tensor = Attached.apply(  # type: ignore[no-untyped-call]  # torch's has no types
            y, phi_TEH, routing.gates_BNE.detach(), weights, self
        )
        return out

    @abstractmethod
    def weight(self, features: Features) -> th.Tensor:
        """Return by how much the penalty's gradient is multiplied."""


class ByFeatures(PenaltyOnTheWay):
    """Weigh by the sizes of the two gradients at the features: an approximation to ``grad``.

    The loss's gradient at the features is the output's, through the experts' last weights.
    """

    def weight(self, features: Features) -> th.Tensor:
        """Return the ratio of the norms."""
        own, losss = ((each * features.reaches).norm() for each in (features.own, features.losss))
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

    def weight(self, features: Features) -> th.Tensor:
        """Return the ratio of the values."""
        if self.loss is None:  # a loss of something else than the actor's decisions
            return features.phi.new_zeros(())
        return self.coef * self.loss.abs() / spectral_penalty(features.phi).clamp_min(TINY)


class Attached(th.autograd.Function):
    """Return the output, and give features a gradient whose size depends on the output's."""

    @staticmethod
    def forward(ctx: Any, y: th.Tensor, *inputs: Any) -> th.Tensor:
        """Pass the output through."""
        phi_TEH, gates_BNE, weight_EHO, ctx.penalty = inputs
        ctx.save_for_backward(phi_TEH, gates_BNE, weight_EHO)
        return y.view_as(y)

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
        weight = ctx.penalty.weight(Features(phi_TD, own_TD, losss_TEH.flatten(1), counts_TD))
        return grads[0], (weight * own_TD).view_as(phi_TEH), None, None, None


class Penalties(NamedTuple):
    """The penalties of a policy, and what takes them off again.

    :param by_mixture: by the mixture's name
    :param of_layers: hooks of the layers, which go along into a copy of the policy
    :param of_steps: hooks of the optimizers, which don't
    """

    by_mixture: dict[str, FeaturePenalty]
    of_layers: list[RemovableHandle]
    of_steps: list[RemovableHandle]


def penalize(policy: LooksInside) -> Penalties:
    """Give the layers that are to have a penalty one.

    :param policy: whole
    :raises ValueError: if a network's experts have no features that could be penalized, or its
        loss can't be read
    """
    networks, layers = networks_of(policy), policy.moe_layers()
    optimizers, found = networks.optimizers(), Penalties({}, [], [])
    for tower, modules in networks.towers().items():
        options = policy.moe[kind_of(tower)]
        if not (options.spectral_coef and options.place.has_experts):
            continue
        _check_mode(options, tower, policy)
        inside = {m for each in modules for m in each.modules() if isinstance(m, MoELayer)}
        name = _last_with_features({k: each for k, each in layers.items() if each in inside}, tower)
        penalty: FeaturePenalty
        if options.spectral_mode == "grad":
            penalty = ByGradient(
                options.spectral_coef, (p for m in modules for p in m.parameters())
            )
            handle = optimizers[tower].register_step_pre_hook(penalty.before_step)
            found.of_steps.append(handle)
        else:
            penalty = {"loss": ByLoss, "features": ByFeatures}[options.spectral_mode](
                options.spectral_coef
            )
        found.by_mixture[name] = penalty
        found.of_layers.append(layers[name].register_forward_hook(penalty.hook, with_kwargs=True))
    return found


def _check_mode(options: MoEOptions, tower: str, policy: LooksInside) -> None:
    if options.spectral_mode == "loss" and not (policy.on_policy and tower == "pi"):
        raise ValueError(
            "`spectral_mode`='loss' reads the loss of an actor off the log-probabilities that PPO "
            f"and its like ask for, got it for {tower!r} of {type(policy).__module__}: use 'grad'"
        )


def _last_with_features(layers: Mapping[str, MoELayer], tower: str) -> str:
    able = [name for name, layer in layers.items() if layer.experts.hidden_width]
    if not able:
        kinds = [type(layer.experts).__name__ for layer in layers.values()]
        raise ValueError(
            "`spectral_coef` needs experts of torch's own layers in a row, a hidden one before the "
            f"last, without statistics over the batch; {tower!r} has none, got {kinds}"
        )
    return able[-1]
