"""Sparse routing: each token chooses experts, or each expert chooses tokens.

Shapes: B batch, N tokens per sample, T = B*N, E experts, k choices, C tokens per expert,
I inputs, O outputs.
"""

from __future__ import annotations

import math

import torch as th

from sb3_moe.layers.aux_loss import AuxCoefs
from sb3_moe.layers.experts import StackedNetwork
from sb3_moe.layers.moe import NO_AUX, MoELayer
from sb3_moe.layers.routers import LinearRouter
from sb3_moe.layers.routing import Routing, counts, softmax_over_experts


class SparseMoE(MoELayer):
    """Send each token to the k experts it scores highest (arXiv 1701.06538), dropping none.

    The gates are the softmax over all experts, not renormalised over the chosen ones: with k = 1 a
    renormalised gate is always 1 and the router would learn nothing.

    :param experts: the stacked experts
    :param router: one score per expert
    :param top_k: k
    :param bias_rate: step of loss-free balancing (arXiv 2408.15664, algorithm 1): a bias that only
        chooses, raised for experts with less than their share of tokens. Loads are counted in
        training passes and the bias moves once, when the module leaves training mode, so that the
        policy stays the same within one update
    :param move_on_eval: whether leaving training mode moves the bias; False: whoever trains the
        layer calls :meth:`move_bias` between two updates
    :param aux: coefficients of the auxiliary losses
    :raises ValueError: if an argument is out of range
    """

    running_bias_E: th.Tensor
    running_count_E: th.Tensor

    def __init__(
        self,
        experts: StackedNetwork,
        router: LinearRouter,
        *,
        top_k: int = 1,
        bias_rate: float = 0.0,
        move_on_eval: bool = True,
        aux: AuxCoefs = NO_AUX,
    ) -> None:
        super().__init__(experts, aux=aux)
        if not 1 <= top_k <= self.num_experts:
            raise ValueError(f"`top_k` must be in [1, num_experts={self.num_experts}], got {top_k}")
        if bias_rate < 0:
            raise ValueError(f"`bias_rate` must be at least 0, got {bias_rate}")
        router.check_scores(self.num_experts, "num_experts")
        self.router = router
        self.top_k = top_k
        self.bias_rate = bias_rate
        self.move_on_eval = move_on_eval
        if bias_rate:
            # Float, persistent and changed in place, so that target networks follow.
            self.register_buffer("running_bias_E", th.zeros(self.num_experts))
            self.register_buffer("running_count_E", th.zeros(self.num_experts))

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the kept gates."""
        logits_BNE = self.router(router_BNR)
        probs_BNE = softmax_over_experts(logits_BNE)
        scores_BNE = probs_BNE + self.running_bias_E if self.bias_rate else probs_BNE
        experts_BNk = scores_BNE.detach().topk(self.top_k, dim=-1).indices
        kept_BNE = th.zeros_like(probs_BNE).scatter(-1, experts_BNk, 1.0)
        gates_BNE = probs_BNE * kept_BNE
        if self.bias_rate and self.training and th.is_grad_enabled():
            self.running_count_E += counts(experts_BNk, self.num_experts)
        y_TO = self.experts.selected(
            x_BNI.flatten(0, 1), experts_BNk.flatten(0, 1), gates_BNE.flatten(0, 1)
        )
        return y_TO.unflatten(0, x_BNI.shape[:2]), Routing(gates_BNE, logits_BNE, experts_BNk)

    def train(self, mode: bool = True) -> SparseMoE:
        """Set the mode; on leaving training, move the bias by the loads counted since."""
        if self.move_on_eval and self.training and not mode:
            self.move_bias()
        super().train(mode)
        return self

    @th.no_grad()
    def move_bias(self) -> None:
        """Move the bias by the loads counted since it last moved, and count from zero again."""
        if not self.bias_rate:
            return
        count_E = self.running_count_E
        # With no counts every difference is 0, and so is its sign: the bias stays.
        self.running_bias_E += self.bias_rate * (count_E.mean() - count_E).sign()
        count_E.zero_()


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

    def __init__(
        self,
        experts: StackedNetwork,
        router: LinearRouter,
        *,
        top_k: int = 1,
        aux: AuxCoefs = NO_AUX,
    ) -> None:
        super().__init__(experts, aux=aux)
        if not 1 <= top_k <= self.num_experts:
            raise ValueError(f"`top_k` must be in [1, num_experts={self.num_experts}], got {top_k}")
        router.check_scores(self.num_experts, "num_experts")
        self.router = router
        self.top_k = top_k

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the gates, zero where an expert did not choose a token."""
        batch, num_tokens, _ = x_BNI.shape
        capacity = math.ceil(num_tokens * self.top_k / self.num_experts)
        logits_BNE = self.router(router_BNR)
        probs_BEN = softmax_over_experts(logits_BNE).transpose(1, 2)
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
