"""Soft MoE (Puigcerver et al. 2024, arXiv 2308.00951), and the control whose router doesn't learn.

Shapes: B batch, N tokens, E experts, S slots per expert, K = E*S slots, I inputs, O outputs.
"""

import math
from typing import Any

import torch as th
from torch import Tensor

from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import RouterInput, edited_shares
from sb3_moe.layers.routing import Routing, softmax_over_experts
from sb3_moe.layers.scores import ScoredMoE


class SoftMoE(ScoredMoE):
    """Mix tokens into slots, run one expert per group of slots, and mix the slots back (eq. 1-3).

    :param experts: the experts
    :param router_input: the sizes that the router is built for
    :param num_slots: slots per expert; None: enough for all tokens, ceil(N / E)
    :param scores: options of :class:`sb3_moe.layers.scores.ScoredMoE`
    """

    name = "soft"

    def __init__(
        self,
        experts: Experts,
        router_input: RouterInput,
        *,
        num_slots: int | None = None,
        **scores: Any,
    ) -> None:
        num_slots = num_slots or math.ceil(router_input.num_tokens / router_input.num_experts)
        super().__init__(experts, router_input, num_slots, **scores)
        self.num_slots = num_slots

    def route(self, x: Tensor, router_x: Tensor) -> tuple[Tensor, Routing]:
        """Compute the output and the routing, whose weights are the combine weights."""
        logits = self.router(router_x)
        if self.num_slots == 1 and x.dim() == 2:
            gates_BE = edited_shares(self, softmax_over_experts(logits))
            return self.combine(x, gates_BE, logits=logits, edited=True)
        combine_weights = self._edited(logits.softmax(-1))
        if self.edit_gates is not None:
            combine_weights = combine_weights / combine_weights.sum(-1, keepdim=True)
        routing = Routing(self._by_slot(combine_weights), self._by_slot(logits))
        if x.dim() == 2:  # every slot holds the one token itself
            y_BO, _ = self.combine(x, routing.weights.sum(-1), edited=True)
            return y_BO, Routing(routing.weights.unsqueeze(1), self._by_slot(logits).unsqueeze(1))
        return self._through_slots(x, logits, combine_weights), routing

    def _through_slots(self, x_BNI: Tensor, logits_BNK: Tensor, combine_BNK: Tensor) -> Tensor:
        batch, _, width = x_BNI.shape
        slots_BKI = th.bmm(self._edited(logits_BNK.softmax(1)).transpose(1, 2), x_BNI)
        slots_BESI = slots_BKI.view(batch, self.num_experts, self.num_slots, width)
        out_EMO = self.experts(slots_BESI.transpose(0, 1).flatten(1, 2))
        out_EBSO = out_EMO.view(self.num_experts, batch, self.num_slots, out_EMO.shape[-1])
        return th.bmm(combine_BNK, out_EBSO.transpose(0, 1).flatten(1, 2))

    def _by_slot(self, weights: Tensor) -> Tensor:
        """Split the axis of slots by expert: (..., K) to (..., E, S)."""
        return weights.view(*weights.shape[:-1], self.num_experts, self.num_slots)

    def _edited(self, weights: Tensor) -> Tensor:
        """Apply ``edit_gates`` to slots' weights (..., K), for each slot number by itself."""
        if self.edit_gates is None:
            return weights
        # As in `edited_shares`.
        weights = weights.clamp_min(th.finfo(weights.dtype).tiny)
        by_expert = self._by_slot(weights).transpose(-1, -2)
        return self.edit_gates(by_expert).transpose(-1, -2).flatten(-2)


class RandomMoE(SoftMoE):
    """A control: Soft MoE whose router keeps its random weights, as buffers."""

    name = "random"
    losses = frozenset()
    frozen_scores = True
