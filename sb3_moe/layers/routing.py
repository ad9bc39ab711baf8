"""What a router decided, as a value that layers return.

Shapes: B batch, N tokens per sample, E experts, S slots per expert, k chosen experts per token.
"""

from typing import NamedTuple

import torch as th
from torch import Tensor

# From this many experts on, softmax over the last axis is faster than over the first.
LONG_AXIS_FROM = 32


class Routing(NamedTuple):
    """Which expert served which token, and how strongly.

    The tensors are as the layer has them: (B, ...) where a sample is one token, else (B, N, ...).
    The properties always have the token axis.

    :param weights: weight of each expert in each token's output, (B, E), (B, N, E) or, with slots,
        (B, N, E, S)
    :param logits: the router's scores before any softmax, shaped as the weights; None if the router
        has no scores
    :param experts: indices of the chosen experts, (B, k) or (B, N, k); None if tokens don't choose
        experts
    """

    weights: Tensor
    logits: Tensor | None = None
    experts: Tensor | None = None

    @property
    def gates_BNE(self) -> Tensor:
        """Weight of each expert in each token's output, slots of an expert summed."""
        weights = _with_tokens(self.weights)
        return weights if weights.dim() == 3 else weights.sum(-1)

    @property
    def logits_BNE(self) -> Tensor | None:
        """The router's scores, (B, N, E) or (B, N, E, S); None if it has none."""
        return None if self.logits is None else _with_tokens(self.logits)

    @property
    def experts_BNk(self) -> Tensor | None:
        """The chosen experts' indices, (B, N, k); None if tokens don't choose experts."""
        return None if self.experts is None else _with_tokens(self.experts)

    @property
    def probs_BNE(self) -> Tensor:
        """The scores' softmax over experts, slots of an expert summed.

        :raises ValueError: if the router has no scores
        """
        logits = self.scores()
        probs = softmax_over_experts(logits.flatten(2)).view(logits.shape)
        return probs if logits.dim() == 3 else probs.sum(-1)

    @property
    def load_E(self) -> Tensor:
        """Share of the work that went to each expert, summing to 1.

        Work is the number of tokens that chose the expert or, if tokens don't choose experts, the
        sum of its gates' absolute values.
        """
        gates_BNE = self.gates_BNE
        if self.experts is None:
            mass_E = gates_BNE.abs().sum(dim=(0, 1))
        else:
            mass_E = counts(self.experts, gates_BNE.shape[-1])
        return mass_E / mass_E.sum().clamp_min(1e-12)

    def scores(self) -> Tensor:
        """Return the router's scores, (B, N, E) or (B, N, E, S).

        :raises ValueError: if it has none
        """
        logits = self.logits_BNE
        if logits is None:
            raise ValueError(
                "an auxiliary loss needs the router's scores: pass `logits=` to `combine`"
            )
        return logits


def _with_tokens(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor


def counts(experts: Tensor, num_experts: int) -> Tensor:
    """Return how often each expert was chosen, as floats (E,), without waiting for the device."""
    count_E = experts.new_zeros(num_experts, dtype=th.float32)
    ones = th.ones_like(experts, dtype=th.float32).flatten()
    return count_E.scatter_add_(0, experts.flatten(), ones)


def softmax_over_experts(logits: Tensor) -> Tensor:
    """Return the softmax over the last axis, computed over the first if experts are few.

    On a CPU, torch is up to nine times slower over a short last axis.
    """
    if logits.shape[-1] >= LONG_AXIS_FROM:
        return logits.softmax(-1)
    return logits.transpose(0, -1).softmax(0).transpose(0, -1)
