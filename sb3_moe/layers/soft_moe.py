"""Soft MoE (Puigcerver et al. 2024, arXiv 2308.00951).

Shapes: B batch, N tokens, E experts, S slots per expert, K = E*S slots, I inputs, O outputs.
"""

from __future__ import annotations

import torch as th

from sb3_moe.layers.aux_loss import AuxCoefs
from sb3_moe.layers.experts import StackedNetwork
from sb3_moe.layers.moe import NO_AUX, MoELayer
from sb3_moe.layers.routers import LinearRouter
from sb3_moe.layers.routing import Routing


class SoftMoE(MoELayer):
    """Mix tokens into slots, run one expert per group of slots, and mix the slots back (eq. 1-3).

    :param experts: the stacked experts
    :param router: scores of every slot for every token, K = num_experts * num_slots of them
    :param num_slots: slots per expert
    :param aux: coefficients of the auxiliary losses
    :raises ValueError: if ``num_slots`` is below 1 or the router's scores are too few or many
    """

    def __init__(
        self,
        experts: StackedNetwork,
        router: LinearRouter,
        *,
        num_slots: int = 1,
        aux: AuxCoefs = NO_AUX,
    ) -> None:
        super().__init__(experts, aux=aux)
        if num_slots < 1:
            raise ValueError(f"`num_slots` must be at least 1, got {num_slots}")
        router.check_scores(self.num_experts * num_slots, "num_experts * num_slots")
        self.router = router
        self.num_slots = num_slots

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the combine weights, summed over an expert's slots."""
        logits_BNK = self.router(router_BNR)
        combine_BNK = logits_BNK.softmax(-1)
        if x_BNI.shape[1] == 1:
            # Every slot holds the one token itself, so this is a gated mixture of all experts.
            gates_BNE = self._per_expert(combine_BNK)
            y_BNO = self.experts.mixture(x_BNI[:, 0], gates_BNE[:, 0]).unsqueeze(1)
        else:
            gates_BNE = self._per_expert(combine_BNK)
            y_BNO = combine_BNK @ self._slots_through_experts(x_BNI, logits_BNK)
        return y_BNO, Routing(gates_BNE, self._by_slot(logits_BNK))

    def _slots_through_experts(self, x_BNI: th.Tensor, logits_BNK: th.Tensor) -> th.Tensor:
        slots_BKI = logits_BNK.softmax(1).transpose(1, 2) @ x_BNI
        batch = len(x_BNI)
        slots_EBSI = slots_BKI.unflatten(1, (self.num_experts, self.num_slots)).transpose(0, 1)
        out_EMO = self.experts(slots_EBSI.flatten(1, 2))
        return out_EMO.unflatten(1, (batch, self.num_slots)).transpose(0, 1).flatten(1, 2)

    def _by_slot(self, x_BNK: th.Tensor) -> th.Tensor:
        if self.num_slots == 1:
            return x_BNK
        return x_BNK.unflatten(-1, (self.num_experts, self.num_slots))

    def _per_expert(self, x_BNK: th.Tensor) -> th.Tensor:
        return x_BNK if self.num_slots == 1 else self._by_slot(x_BNK).sum(-1)
