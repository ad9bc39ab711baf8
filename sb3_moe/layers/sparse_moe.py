"""Sparse routing: tokens choose experts, or experts choose tokens.

Shapes: B batch, N tokens per sample, E experts, k choices, C tokens per expert, K = E*C,
I inputs, O outputs.
"""

import math
from typing import Any, ClassVar

import torch as th
from torch import Tensor

from sb3_moe.layers.experts import Experts, is_recorded
from sb3_moe.layers.moe import RouterInput, edited_shares
from sb3_moe.layers.routing import Routing, counts, softmax_over_experts
from sb3_moe.layers.scores import ScoredMoE


class SparseMoE(ScoredMoE):
    """Send each token to the k experts it scores highest (arXiv 1701.06538), dropping none.

    The gates are the softmax over all experts. If they were made to sum to 1 over the chosen ones,
    a single gate would always be 1, and the router could not learn. If scores are equal, the first
    experts are chosen, except in exported files.

    :param experts: the experts
    :param router_input: the sizes that the router is built for
    :param top_k: k
    :param bias_rate: step of loss-free balancing (arXiv 2408.15664, algorithm 1): a bias that
        only affects the choice, raised for experts with less than their share of a training batch
    :param renormalize: make the kept gates sum to 1; needs k of at least 2
    :param scores: options of :class:`sb3_moe.layers.scores.ScoredMoE`
    :raises ValueError: if there are fewer than k experts, or k is too small to renormalize
    """

    name = "top_k"
    leaves_out = True
    axes: ClassVar = ScoredMoE.axes | {"running_bias_E": 0}

    running_bias_E: Tensor

    def __init__(
        self,
        experts: Experts,
        router_input: RouterInput,
        *,
        top_k: int = 1,
        bias_rate: float = 0.0,
        renormalize: bool = False,
        **scores: Any,
    ) -> None:
        super().__init__(experts, router_input, **scores)
        check_top_k(top_k, self.num_experts)
        if renormalize and top_k < 2:
            raise ValueError(
                "`renormalize`=True needs `top_k` of at least 2: the gate of a single expert would "
                f"always be 1, so the router would learn nothing, got {top_k}"
            )
        self.top_k = top_k
        self.bias_rate = bias_rate
        self.renormalize = renormalize
        if bias_rate:
            # SB3 copies buffers with `running_` in their names to target networks.
            self.register_buffer("running_bias_E", th.zeros(self.num_experts))

    def route(self, x: Tensor, router_x: Tensor) -> tuple[Tensor, Routing]:
        """Compute the output and the kept gates."""
        logits = self.router(router_x)
        probs = edited_shares(self, softmax_over_experts(logits))
        chosen = self._choose(probs.detach())
        gates = probs * th.zeros_like(probs).scatter(-1, chosen, 1.0)
        if self.renormalize:
            gates = gates / gates.sum(-1, keepdim=True)
        return self.combine(x, gates, logits=logits, experts=chosen, edited=True)

    def _choose(self, probs: Tensor) -> Tensor:
        if not self.bias_rate:
            return best(probs, self.top_k)
        bias_E = self.running_bias_E
        if self.edit_gates is not None:
            bias_E = self.edit_gates(bias_E)
        # An expert whose gate was edited to 0 must not be chosen for its bias.
        chosen = best((probs + bias_E).masked_fill(probs == 0, -th.inf), self.top_k)
        if self.training and th.is_grad_enabled() and not self._is_held():
            # Experts for this batch are chosen: the bias acts on the next one.
            count_E = counts(chosen, self.num_experts).to(bias_E.dtype)
            self.running_bias_E += self.bias_rate * (count_E.mean() - count_E).sign()
        return chosen

    def _is_held(self) -> bool:
        """Say whether the router is kept from learning now: then its bias must not move either."""
        return not any(each.requires_grad for each in self.router.parameters())


class ExpertChoiceMoE(ScoredMoE):
    """Let each expert choose its tokens within a sample (arXiv 2202.09368).

    Each expert takes C = ceil(N * top_k / E) tokens of every sample; a token that none chooses
    comes out as zero, and every expert does the same amount of work.

    :param experts: the experts
    :param router_input: the sizes that the router is built for
    :param top_k: how many experts serve a token on average
    :param scores: options of :class:`sb3_moe.layers.scores.ScoredMoE`
    :raises ValueError: if there are too few experts, or a sample has only one token
    """

    name = "expert_choice"
    losses = frozenset({"z"})

    def __init__(
        self, experts: Experts, router_input: RouterInput, *, top_k: int = 1, **scores: Any
    ) -> None:
        super().__init__(experts, router_input, **scores)
        check_top_k(top_k, self.num_experts)
        if router_input.num_tokens < 2:
            raise ValueError(
                "`router`='expert_choice' chooses among the tokens of one sample, so each of its "
                "layers needs `tokens` of 'conv' or 'feature' (`placement`='middle' with one "
                "hidden layer), got one token"
            )
        self.top_k = top_k

    def route(self, x_BNI: Tensor, router_BNR: Tensor) -> tuple[Tensor, Routing]:
        """Compute the output and the gates, zero where an expert did not choose a token."""
        batch, num_tokens, width = x_BNI.shape
        capacity = self.capacity(num_tokens)
        logits_BNE = self.router(router_BNR)
        probs_BNE = softmax_over_experts(logits_BNE)
        if self.edit_gates is not None:
            probs_BNE = self.edit_gates(probs_BNE)
        probs_BEN = probs_BNE.transpose(1, 2)
        gates_BEC, tokens_BEC = probs_BEN.topk(capacity, dim=-1)
        index_BK1 = tokens_BEC.flatten(1).unsqueeze(-1)
        rows_BKI = x_BNI.gather(1, index_BK1.expand(-1, -1, width))
        rows_EBCI = rows_BKI.unflatten(1, (self.num_experts, capacity)).transpose(0, 1)
        out_EMO = self.experts(rows_EBCI.flatten(1, 2))
        out_BKO = out_EMO.unflatten(1, (batch, capacity)).transpose(0, 1).flatten(1, 2)
        weighted_BKO = out_BKO * gates_BEC.flatten(1).unsqueeze(-1)
        y_BNO = weighted_BKO.new_zeros(batch, num_tokens, out_BKO.shape[-1]).scatter_add(
            1, index_BK1.expand_as(weighted_BKO), weighted_BKO
        )
        gates_BEN = th.zeros_like(probs_BEN).scatter(-1, tokens_BEC, gates_BEC)
        return y_BNO, Routing(gates_BEN.transpose(1, 2), logits_BNE)

    def capacity(self, num_tokens: int) -> int:
        """Return C, how many of a sample's tokens each expert takes."""
        return math.ceil(num_tokens * self.top_k / self.num_experts)


def best(scores: Tensor, top_k: int) -> Tensor:
    """Return the indices of the k largest scores, the first of equal ones: (..., E) to (..., k)."""
    if top_k == 1:
        return scores.argmax(dim=-1, keepdim=True)
    if is_recorded():  # ONNX knows no sort that keeps the order of equal scores
        return scores.topk(top_k, dim=-1).indices
    # Not `topk`, whose order of equal scores differs between devices.
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]


def check_top_k(top_k: int, num_experts: int) -> None:
    """Raise unless ``top_k`` of the experts can be chosen."""
    if top_k > num_experts:
        raise ValueError(f"`top_k` must be in [1, num_experts={num_experts}], got {top_k}")
