"""What a router decided, as a value that layers return.

Shapes: B batch, N tokens per sample, E experts, S slots per expert, k chosen experts per token.
"""

from typing import NamedTuple

import torch as th

from sb3_moe.layers import paths

NO_SCORES = "this needs a router with scores to learn, and this routing has none"


class Routing(NamedTuple):
    """Which expert served which token, and how strongly.

    :param weights_BNE: weight of each expert in each token's output, (B, N, E) or, with slots,
        (B, N, E, S); None where it is the softmax of the scores, which is then left for whoever
        looks at it: with many slots it is dear
    :param logits_BNE: the router's scores before any softmax, (B, N, E) or, with slots,
        (B, N, E, S); None where nothing is learned
    :param experts_BNk: the chosen experts' indices; None where every expert serves every token
    """

    weights_BNE: th.Tensor | None = None
    logits_BNE: th.Tensor | None = None
    experts_BNk: th.Tensor | None = None

    @property
    def probs_BNE(self) -> th.Tensor:
        """The scores' softmax over experts, slots of an expert summed.

        :raises ValueError: if the router has no scores
        """
        logits = self.logits_BNE
        if logits is None:
            raise ValueError(NO_SCORES)
        if logits.dim() == 3:
            return softmax_over_experts(logits)
        return logits.flatten(2).softmax(-1).view_as(logits).sum(-1)

    @property
    def gates_BNE(self) -> th.Tensor:
        """Weight of each expert in each token's output, slots of an expert summed."""
        weights = self.weights_BNE
        if weights is None:
            return self.probs_BNE
        return weights if weights.dim() == 3 else weights.sum(-1)

    @property
    def load_E(self) -> th.Tensor:
        """Share of the work that went to each expert, summing to 1.

        Counts of (token, choice) pairs where experts are chosen, else mass of the gates, whatever
        their signs.
        """
        gates_BNE = self.gates_BNE
        if self.experts_BNk is None:
            mass_E = gates_BNE.abs().sum(dim=(0, 1))
        else:
            mass_E = counts(self.experts_BNk, gates_BNE.shape[-1])
        return mass_E / mass_E.sum().clamp_min(1e-12)


def as_routed(returned: object, router: str) -> tuple[th.Tensor, Routing]:
    """Return what a router's `route` gave, an output and its routing.

    :param returned: by `route`
    :param router: its name
    :raises TypeError: if it is anything else, such as the gates alone
    """
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Routing):
        output, routing = returned
        return output, routing
    raise TypeError(
        f"`route` of the router {router!r} must return an output and a Routing, as "
        f"`self.combine(x_BNI, gates_BNE)` gives them, got {type(returned).__name__}"
    )


def counts(experts_BNk: th.Tensor, num_experts: int) -> th.Tensor:
    """How often each expert was chosen, as float (E,); never waits for the device."""
    count_E = experts_BNk.new_zeros(num_experts, dtype=th.float32)
    ones = th.ones_like(experts_BNk, dtype=th.float32).flatten()
    return count_E.scatter_add_(0, experts_BNk.flatten(), ones)


def softmax_over_experts(logits_BNE: th.Tensor) -> th.Tensor:
    """Softmax over the last axis, by way of the first.

    On CPU torch is up to nine times slower over a short last axis, which a few experts are.
    """
    if logits_BNE.shape[-1] >= paths.LONG_AXIS_FROM:
        return logits_BNE.softmax(-1)
    return logits_BNE.transpose(0, -1).softmax(0).transpose(0, -1)


def softmax_over_experts_backward(grad_TE: th.Tensor, probs_TE: th.Tensor) -> th.Tensor:
    """Return the gradient of the scores, by the kernel that torch would take."""
    backward = th._softmax_backward_data
    if probs_TE.shape[-1] >= paths.LONG_AXIS_FROM:
        return backward(grad_TE, probs_TE, 1, grad_TE.dtype)
    return backward(grad_TE.t(), probs_TE.t(), 0, grad_TE.dtype).t()
