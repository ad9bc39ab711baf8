"""A penalty on features that use few directions, or some far more than others (SPHERE).

A forward hook computes it at a network's last layer of experts, in training.

Shapes: T rows, E experts, H units of an expert's last hidden layer, D = E*H.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.layers import Experts, MoELayer, Routing
from sb3_moe.layers.aux_loss import without_added_losses
from sb3_moe.policies.looks_inside import LooksInside
from sb3_moe.policies.networks import kind_of, network_of, networks_of

# The least norm that is divided by: the penalty's gradient may be 0.
TINY = 1e-12


def penalty_gradient(phi_TD: Tensor) -> Tensor:
    """Return the gradient of the penalty |A|^2 - tr(A)^2 / D, where A = Phi' Phi / T.

    The penalty is 0 if all directions are used alike. The gradient is computed with the smaller of
    Phi' Phi and Phi Phi', which give the same numbers (arXiv 2605.04712).

    :param phi_TD: the features
    """
    rows, width = phi_TD.shape
    small = width > rows
    turned_TD = (phi_TD @ phi_TD.T) @ phi_TD if small else phi_TD @ (phi_TD.T @ phi_TD)
    trace = phi_TD.square().sum() / rows
    return 4 / rows * (turned_TD / rows - trace / width * phi_TD)


def gated_features(experts: Experts, x: Tensor, routing: Routing) -> Tensor:
    """Return what the experts' last layers read, weighed by the gates: (T, E, H).

    They are computed again, apart from the layer's output, so they don't depend on whether the
    layer sorted its rows.

    :param experts: the experts
    :param x: what the experts saw
    :param routing: what the router decided
    """
    hidden_TEH = experts.hidden(x.flatten(0, -2))
    return hidden_TEH * routing.gates_BNE.flatten(0, 1).unsqueeze(-1)


class FeaturePenalty:
    """The penalty of one layer of experts: a gradient that is added in the optimizer's steps.

    The gradient is computed in the forward pass. When the optimizer is about to step, after the
    algorithm has clipped the loss's gradient, it is scaled and added: its norm over the network
    becomes ``coef`` times that of the loss's gradient.

    :param coef: norm of the penalty's gradient, as a share of that of the loss's
    :param parameters: parameters of the network, from features to output
    """

    def __init__(self, coef: float, parameters: Iterable[nn.Parameter]) -> None:
        self.coef = coef
        self._parameters = list(dict.fromkeys(parameters))
        self._own: list[tuple[nn.Parameter, Tensor | None]] = []

    def hook(self, layer: MoELayer, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """Compute the penalty's gradient and keep it until the next step; the last pass counts."""
        if not (layer.training and th.is_grad_enabled() and kwargs.get("aux", True)):
            return
        phi_TD = gated_features(layer.experts, args[0], output[1]).flatten(1)
        # Parameters that don't learn now, such as those of a router on hold, are left out.
        learned = [p for p in self._parameters if p.requires_grad]
        # Written out, the penalty's gradient takes one matrix product less than by autograd.
        own_TD = penalty_gradient(phi_TD.detach())
        with without_added_losses():  # of the layers before this one
            grads = th.autograd.grad(phi_TD, learned, own_TD, retain_graph=True, allow_unused=True)
        self._own = list(zip(learned, grads, strict=True))

    @th.no_grad()
    def before_step(self, *args: Any) -> None:
        """Scale and add the penalty's gradient: a hook of the optimizer."""
        found = self._own
        self._own = []
        loss_grads = [p.grad for p in self._parameters if p.grad is not None]
        own = [(p.grad, g) for p, g in found if g is not None and p.grad is not None]
        if not own:
            return
        norm = total_norm([each for _, each in own])
        weight = self.coef * total_norm(loss_grads) / norm.clamp_min(TINY)
        for grad, each in own:
            grad.add_(weight * each)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of all tensors together, without waiting for the device."""
    return th.stack(th._foreach_norm(list(tensors))).norm()


Hooks = list[RemovableHandle]


def penalize(policy: LooksInside) -> tuple[Hooks, Hooks]:
    """Attach a penalty to every network for which the options ask for one.

    :param policy: a policy that is completely built
    :return: hooks of layers, which a copy of the policy has too; and hooks of optimizers, which it
        doesn't have
    :raises ValueError: if a network's experts have no features that could be penalized
    """
    networks = networks_of(policy)
    optimizers = networks.optimizers()
    of_layers = []
    of_steps = []
    for network, modules in networks.modules().items():
        coef = policy.moe[kind_of(network)].spectral_coef
        if not coef:
            continue
        # Of an actor's two heads, which stand side by side, the one of the mean.
        layers = [
            layer
            for name, layer in policy.moe_layers().items()
            if network_of(name) == network and not name.endswith("log_std")
        ]
        able = [layer for layer in layers if layer.experts.has_hidden]
        if not able:
            kinds = [type(layer.experts).__name__ for layer in layers]
            raise ValueError(
                "`spectral_coef` needs experts of torch's own layers in sequence, one before the "
                f"last, without statistics over the batch; {network!r} has none, got {kinds}"
            )
        penalty = FeaturePenalty(coef, (p for m in modules for p in m.parameters()))
        of_layers.append(able[-1].register_forward_hook(penalty.hook, with_kwargs=True))
        of_steps.append(optimizers[network].register_step_pre_hook(penalty.before_step))
    return of_layers, of_steps
