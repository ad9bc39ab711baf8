"""Sparse routing: each expert chooses tokens.

Shapes: B batch, N tokens per sample, T = B*N, E experts, k choices, C tokens per
expert, I inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch as th

from sb3_moe.layers.aux_loss import AuxCoefs
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import NO_AUX, MoELayer, RouterInput
from sb3_moe.layers.routers import ScoreRouter, check_score_options, make_router
from sb3_moe.layers.routing import Routing, softmax_over_experts
from sb3_moe.layers.sparse_moe import check_choices, check_top_k


class ExpertChoiceMoE(MoELayer):
    """Let each expert choose its tokens within a sample (arXiv 2202.09368).

    Each expert takes C = ceil(N * top_k / E) tokens of every sample; a token that none chooses
    comes out as zero, and every expert does the same amount of work.

    :param experts: the stacked experts
    :param router: one score per expert
    :param top_k: how many experts serve a token on average
    :param aux: coefficients of the auxiliary losses
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str] = "expert_choice"
    title: ClassVar[str] = "Expert choice"
    meaning: ClassVar[str] = "each picks its samples by a learned router"
    learns: ClassVar[bool] = True
    tokens: ClassVar[Sequence[str] | None] = ("conv", "feature")
    placements: ClassVar[Sequence[str] | None] = ("middle",)
    losses: ClassVar[frozenset[str]] = frozenset({"z"})
    steers_itself: bool = True

    def __init__(
        self,
        experts: Experts,
        router: ScoreRouter,
        *,
        top_k: int = 1,
        aux: AuxCoefs = NO_AUX,
    ) -> None:
        super().__init__(experts, aux=aux)
        check_top_k(top_k, self.num_experts)
        router.check_scores(self.num_experts, "num_experts")
        self.router = router
        self.top_k = top_k

    @classmethod
    def build(  # type: ignore[override]  # its options, by name
        cls,
        experts: Experts,
        sees: RouterInput,
        *,
        top_k: int = 1,
        normalize_router: bool = False,
        router_noise: float = 0.0,
        hidden: Sequence[int] = (),
        bias: bool = False,
    ) -> Self:
        """Return the layer with its router."""
        router = make_router(
            sees.features,
            sees.num_experts,
            hidden=hidden,
            normalize=normalize_router,
            noise=router_noise,
            bias=bias,
        )
        return cls(experts, router, top_k=top_k)

    @classmethod
    def check(cls, options: Mapping[str, Any], num_experts: int | None) -> None:
        """Check choices and scores."""
        check_choices(options["top_k"], num_experts)
        check_score_options(options)

    @classmethod
    def why_invalid(cls, tokens: str, placement: str) -> str | None:
        """Say why a token that comes alone won't do."""
        if tokens == "sample":
            return (
                "`router`='expert_choice' chooses among the tokens of one sample, so `tokens` must "
                "be 'conv' or 'feature', got 'sample'"
            )
        return super().why_invalid(tokens, placement)

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the gates, zero where an expert did not choose a token."""
        batch, num_tokens, _ = x_BNI.shape
        capacity = self.capacity(num_tokens)
        logits_BNE = self.router(router_BNR)
        probs_BNE = softmax_over_experts(logits_BNE)
        if self.steering is not None:
            # No score would keep an expert from choosing: its output is zero.
            probs_BNE = self.steering.gates(probs_BNE)
        probs_BEN = probs_BNE.transpose(1, 2)
        gates_BEC, tokens_BEC = probs_BEN.topk(capacity, dim=-1)
        index_BK = tokens_BEC.flatten(1)
        rows_BKI = x_BNI.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, x_BNI.shape[-1]))
        rows_EBCI = rows_BKI.unflatten(1, (self.num_experts, capacity)).transpose(0, 1)
        out_EMO = self.experts(rows_EBCI.flatten(1, 2))
        out_BKO = out_EMO.unflatten(1, (batch, capacity)).transpose(0, 1).flatten(1, 2)
        weighted_BKO = out_BKO * gates_BEC.flatten(1).unsqueeze(-1)
        y_BNO = weighted_BKO.new_zeros(batch, num_tokens, out_BKO.shape[-1]).scatter_add(
            1, index_BK.unsqueeze(-1).expand_as(weighted_BKO), weighted_BKO
        )
        gates_BEN = th.zeros_like(probs_BEN).scatter(-1, tokens_BEC, gates_BEC)
        return y_BNO, Routing(gates_BEN.transpose(1, 2), logits_BNE)

    def capacity(self, num_tokens: int) -> int:
        """Return C, how many of a sample's tokens each expert takes."""
        return math.ceil(num_tokens * self.top_k / self.num_experts)

    def take_copies(self) -> float:
        """Refuse: what no expert picks comes out as zero, whatever the experts hold."""
        raise ValueError(
            f"`router`={self.name!r} can't take copies of a dense layer: a token that no expert "
            "picks has no output"
        )

    @property
    def num_chosen(self) -> int:
        """How many experts serve a token, on average."""
        return self.top_k

    def rows(self, num_tokens: int) -> int:
        """Return E times C."""
        return self.num_experts * self.capacity(num_tokens)

    def row_gates(self, routing: Routing) -> th.Tensor:
        """Return the gates of the tokens that each expert took."""
        gates_BNE = routing.gates_BNE
        gates_BEC = gates_BNE.transpose(1, 2).topk(self.capacity(gates_BNE.shape[1]), dim=-1).values
        return gates_BEC.transpose(1, 2).flatten(0, 1)
