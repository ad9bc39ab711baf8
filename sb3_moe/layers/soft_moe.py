"""Soft MoE (Puigcerver et al. 2024, arXiv 2308.00951).

Shapes: B batch, N tokens, E experts, S slots per expert, K = E*S slots, I inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch as th

from sb3_moe.layers import paths
from sb3_moe.layers.aux_loss import AuxCoefs
from sb3_moe.layers.checks import whole_or_none
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.fused import soft_mixture
from sb3_moe.layers.moe import NO_AUX, MoELayer, RouterInput
from sb3_moe.layers.routers import FAINT, ScoreRouter, check_score_options, make_router
from sb3_moe.layers.routing import Routing, softmax_over_experts
from sb3_moe.layers.tracing import is_recorded


class SoftMoE(MoELayer):
    """Mix tokens into slots, run one expert per group of slots, and mix the slots back (eq. 1-3).

    :param experts: the stacked experts
    :param router: scores of every slot for every token, K = num_experts * num_slots of them
    :param num_slots: slots per expert
    :param aux: coefficients of the auxiliary losses
    :raises ValueError: if ``num_slots`` is below 1 or the router's scores are too few or many
    """

    name: ClassVar[str] = "soft"
    title: ClassVar[str] = "SoftMoE"
    meaning: ClassVar[str] = "a learned router weighs all of them"
    learns: ClassVar[bool] = True
    losses: ClassVar[frozenset[str]] = frozenset({"balance", "importance", "z"})
    steers_itself: bool = True
    when_off: str = "its score is minus infinity, and the others share its weight"

    def __init__(
        self,
        experts: Experts,
        router: ScoreRouter,
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

    @classmethod
    def build(  # type: ignore[override]  # its options, by name
        cls,
        experts: Experts,
        sees: RouterInput,
        *,
        num_slots: int | None = None,
        normalize_router: bool = False,
        router_noise: float = 0.0,
        hidden: Sequence[int] = (),
        bias: bool = False,
    ) -> Self:
        """Return the layer with its router; without ``num_slots`` there are ceil(N / E)."""
        slots = slots_for(sees, num_slots)
        router = make_router(
            sees.features,
            sees.num_experts * slots,
            hidden=hidden,
            normalize=normalize_router,
            noise=router_noise,
            bias=bias,
        )
        return cls(experts, router, num_slots=slots)

    @classmethod
    def check(cls, options: Mapping[str, Any], num_experts: int | None) -> None:
        """Check slots and scores."""
        whole_or_none("num_slots", options["num_slots"])
        check_score_options(options)

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the routing, whose gates are the combine weights."""
        if x_BNI.shape[1] == 1:
            return self._one_token(x_BNI, router_BNR)
        logits_BNK = self._steered(self.router(router_BNR))
        size = self._chunk_size(x_BNI, logits_BNK)
        if size is None:
            y_BNO = self._many_tokens(x_BNI, logits_BNK)
        else:
            chunks = zip(x_BNI.split(size), logits_BNK.split(size), strict=True)
            y_BNO = th.cat([self._many_tokens(*chunk) for chunk in chunks])
        return y_BNO, Routing(logits_BNE=self._by_slot(logits_BNK))

    def _one_token(self, x_B1I: th.Tensor, router_B1R: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Mix all experts' outputs: every slot holds the one token itself."""
        plain = self.num_slots == 1 and self.steering is None
        if plain and (weight_RE := self.router.as_matrix()) is not None:
            two_layers = self.experts.two_layers(x_B1I.shape[0])
            if two_layers is not None:
                y_B1O, logits_B1E = soft_mixture(x_B1I, router_B1R, weight_RE, two_layers)
                return y_B1O, Routing(logits_BNE=logits_B1E)
        logits_B1K = self._steered(self.router(router_B1R))
        weights_B1K = softmax_over_experts(logits_B1K)
        routing = Routing(self._by_slot(weights_B1K), self._by_slot(logits_B1K))
        y_BO = self.experts.mixture(x_B1I.squeeze(1), routing.gates_BNE.squeeze(1))
        return y_BO.unsqueeze(1), routing

    def _many_tokens(self, x_BNI: th.Tensor, logits_BNK: th.Tensor) -> th.Tensor:
        batch, _, width = x_BNI.shape
        slots_BKI = th.bmm(logits_BNK.softmax(1).transpose(1, 2), x_BNI)
        slots_BESI = slots_BKI.view(batch, self.num_experts, self.num_slots, width)
        out_EMO = self.experts(slots_BESI.transpose(0, 1).flatten(1, 2))
        out_EBSO = out_EMO.view(self.num_experts, batch, self.num_slots, out_EMO.shape[-1])
        return th.bmm(logits_BNK.softmax(-1), out_EBSO.transpose(0, 1).flatten(1, 2))

    def _chunk_size(self, x_BNI: th.Tensor, logits_BNK: th.Tensor) -> int | None:
        """Return how many samples to take at a time, so that their scores stay in the cache.

        None: all of them.
        """
        if self.experts.needs_all_rows or not paths.on_cpu(x_BNI) or is_recorded():
            return None
        chunks = math.ceil(logits_BNK.numel() / (paths.CHUNK_SCORES * th.get_num_threads()))
        return math.ceil(len(x_BNI) / chunks) if chunks > 1 else None

    def _by_slot(self, x_BNK: th.Tensor) -> th.Tensor:
        if self.num_slots == 1:
            return x_BNK
        return x_BNK.view(*x_BNK.shape[:2], self.num_experts, self.num_slots)

    def take_shares(self) -> None:
        """Let the scores start so near 0 that all gates are as good as 1/E."""
        self.router.soften(FAINT)

    def options_for_others(self, *, shares: bool) -> dict[str, Any]:
        """Keep the number of slots, which else follows from that of the experts."""
        return super().options_for_others(shares=shares) | {"num_slots": self.num_slots}

    def gates_of(self, task: int | None) -> list[float] | None:
        """Return the one gate of a single expert."""
        return [1.0] if self.num_experts == 1 else None

    # With one token every slot holds that token, and each expert runs once.

    def rows(self, num_tokens: int) -> int:
        """Return the number of slots, whatever the number of tokens."""
        return self.num_experts * (self.num_slots if num_tokens > 1 else 1)

    def extra_flops(self, num_tokens: int, in_features: int) -> int:
        """Count the mixing of tokens into slots, and back."""
        if num_tokens == 1:
            return 0
        return 2 * num_tokens * self.rows(num_tokens) * (in_features + self.experts.out_features)

    def row_gates(self, routing: Routing) -> th.Tensor:
        """Return each slot's mean weight over the tokens it is mixed back into."""
        logits = routing.logits_BNE
        assert logits is not None
        if logits.shape[1] == 1:
            return super().row_gates(routing)
        combine_BK = logits.flatten(2).softmax(-1).mean(1)
        combine_BES = combine_BK.unflatten(1, (self.num_experts, self.num_slots))
        return combine_BES.transpose(1, 2).flatten(0, 1)


def slots_for(sees: RouterInput, num_slots: int | None) -> int:
    """Return the slots per expert: enough for all tokens where no number is given."""
    return num_slots or math.ceil(sees.num_tokens / sees.num_experts)
