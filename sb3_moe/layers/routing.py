"""What a router decided, as a value that layers return.

Shapes: B batch, N tokens per sample, E experts, S slots per expert, k chosen experts per token.
"""

from typing import NamedTuple

import torch as th

# From so many experts on, softmax over the last axis is faster than by way of the first.
LONG_AXIS_FROM = 32


class Routing(NamedTuple):
    """Which expert served which token, and how strongly.

    :param weights_BNE: weight of each expert in each token's output, (B, N, E) or, with slots,
        (B, N, E, S)
    :param logits_BNE: the router's scores before any softmax, (B, N, E) or, with slots,
        (B, N, E, S); None where nothing is learned
    :param experts_BNk: the chosen experts' indices; None where every expert serves every token
    """

    weights_BNE: th.Tensor
    logits_BNE: th.Tensor | None = None
    experts_BNk: th.Tensor | None = None

    @property
    def probs_BNE(self) -> th.Tensor:
        """The scores' softmax over experts, slots of an expert summed.

        :raises ValueError: if the router has no scores
        """
        logits = self.scores()
        probs = softmax_over_experts(logits.flatten(2)).view(logits.shape)
        return probs if logits.dim() == 3 else probs.sum(-1)

    @property
    def gates_BNE(self) -> th.Tensor:
        """Weight of each expert in each token's output, slots of an expert summed."""
        return self.weights_BNE if self.weights_BNE.dim() == 3 else self.weights_BNE.sum(-1)

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

    def scores(self) -> th.Tensor:
        """Return the router's scores.

        :raises ValueError: if it has none
        """
        if self.logits_BNE is None:
            raise ValueError("this needs a router with scores to learn, and this routing has none")
        return self.logits_BNE


def counts(experts_BNk: th.Tensor, num_experts: int) -> th.Tensor:
    """How often each expert was chosen, as float (E,); never waits for the device."""
    count_E = experts_BNk.new_zeros(num_experts, dtype=th.float32)
    ones = th.ones_like(experts_BNk, dtype=th.float32).flatten()
    return count_E.scatter_add_(0, experts_BNk.flatten(), ones)


def softmax_over_experts(logits_BNE: th.Tensor) -> th.Tensor:
    """Softmax over the last axis, by way of the first.

    On CPU torch is up to nine times slower over a short last axis, which a few experts are.
    """
    if logits_BNE.shape[-1] >= LONG_AXIS_FROM:
        return logits_BNE.softmax(-1)
    return logits_BNE.transpose(0, -1).softmax(0).transpose(0, -1)
