"""Routers that don't look at tokens: the task alone decides, a belief about it, or nothing.

Shapes: E experts, K tasks, or models of a belief.
"""

import math
from typing import ClassVar

import torch as th
from torch import Tensor, nn

from sb3_moe.layers.checks import one_of, positive
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import MoELayer, RouterInput, edited_shares
from sb3_moe.layers.routing import Routing, softmax_over_experts
from sb3_moe.layers.sparse_moe import best, check_top_k


class TaskMoE(MoELayer):
    """Let the task id pick the expert: the hardcoded router of arXiv 2406.18420."""

    name = "task"
    sees = "task"
    needs_tasks = True
    leaves_out = True

    def route(self, x: Tensor, router_x: Tensor) -> tuple[Tensor, Routing]:
        """Send every token to its task's expert, also if the one-hot was normalized.

        :param x: what the experts see
        :param router_x: the one-hot task id; its largest entry tells the task
        """
        chosen = router_x.argmax(dim=-1, keepdim=True)
        gates = th.zeros_like(router_x).scatter(-1, chosen, 1.0)
        return self.combine(x, gates, experts=chosen)


class BeliefMoE(MoELayer):
    """Weigh each expert by the belief that its model of the environment is right.

    :param experts: one for each model
    :param router_input: not used
    :param top_k: how many experts serve a token, with gates that sum to 1; None: all
    :param temperature: above 1 for gates that are more alike, below 1 for sharper ones
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of range
    """

    name = "belief"
    sees = "belief"
    leaves_out = True

    def __init__(
        self,
        experts: Experts,
        router_input: RouterInput,
        *,
        top_k: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(experts)
        check_top_k(top_k or 1, self.num_experts)
        positive("temperature", temperature)
        self.top_k = top_k
        self.temperature = temperature

    def route(self, x: Tensor, router_x: Tensor) -> tuple[Tensor, Routing]:
        """Compute the output; the routing's scores are logarithms of the belief.

        :param x: what the experts see
        :param router_x: the belief, with an entry for each expert
        """
        logits = router_x.clamp_min(th.finfo(router_x.dtype).tiny).log()
        gates = router_x
        chosen = None
        # A belief can be exactly 1. If that expert is switched off, the gates of the others must
        # not all be 0: after this softmax, none is.
        if self.temperature != 1.0 or self.edit_gates is not None:
            gates = softmax_over_experts(logits / self.temperature)
        gates = edited_shares(self, gates)
        if self.top_k is not None:
            chosen = best(gates, self.top_k)
            gates = gates * th.zeros_like(gates).scatter(-1, chosen, 1.0)
            gates = gates / gates.sum(-1, keepdim=True)
        return self.combine(x, gates, logits=logits, experts=chosen, edited=True)


class UniformMoE(MoELayer):
    """Average all experts: the control that has experts but no router."""

    name = "uniform"
    sees = "nothing"

    def route(self, x: Tensor, router_x: Tensor) -> tuple[Tensor, Routing]:
        """Give every expert the weight 1/E."""
        gates = x.new_full((*x.shape[:-1], self.num_experts), 1.0 / self.num_experts)
        return self.combine(x, edited_shares(self, gates), edited=True)


class TaskEmbedding(nn.Module):
    """A learned vector for each task: a row of ``weight_KW``.

    The weight is not an ``nn.Linear``, whose weights SB3's orthogonal init would overwrite.

    :param num_tasks: K
    :param width: W; the norm of a row starts near 1, that of a one-hot
    :param bias: whether to add a learned vector that all tasks share, 0 at first
    :param tells_task: whether the input is the task's id; False: a belief, which weighs the vectors
    """

    def __init__(
        self, num_tasks: int, width: int, *, bias: bool = False, tells_task: bool = True
    ) -> None:
        super().__init__()
        self.tells_task = tells_task
        self.weight_KW = nn.Parameter(th.randn(num_tasks, width) / math.sqrt(width))
        self.bias_W = nn.Parameter(th.zeros(width)) if bias else None

    @property
    def rows_KW(self) -> Tensor:
        """Each task's vector, with the bias, (K, W)."""
        return self.weight_KW if self.bias_W is None else self.weight_KW + self.bias_W

    def forward(self, onehot: Tensor) -> Tensor:
        """Return each task's row, also if the one-hot was normalized: (..., K) to (..., W)."""
        return self.rows_KW[onehot.argmax(dim=-1)] if self.tells_task else onehot @ self.rows_KW


class EmbeddingMoE(MoELayer):
    """Weigh all experts by a learned row for each task.

    With linear weights, this is how MOORE (arXiv 2311.11385) weighs experts. With a bias, linear
    experts in every layer and one embedding for all layers, a policy is parameterized as PaCo's.

    :param experts: the experts
    :param router_input: the sizes that the router is built for
    :param weights: ``"linear"``: the weights are the row itself; ``"softmax"``: its softmax
    :param bias: whether to add a learned row that all tasks share
    :param shared: whether all layers of a network share one embedding
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is not valid
    """

    name = "embedding"
    sees = "task"
    axes: ClassVar = {"weight_KW": 1, "bias_W": 0}

    def __init__(
        self,
        experts: Experts,
        router_input: RouterInput,
        *,
        weights: str = "linear",
        bias: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__(experts)
        one_of("weights", weights, ("linear", "softmax"))
        # Rows start with a norm near 1: a weighed sum of independent experts is as strong as one.
        self.task_weights = TaskEmbedding(
            router_input.num_tasks,
            self.num_experts,
            bias=bias,
            tells_task=router_input.tells_task,
        )
        self.softmax = weights == "softmax"
        self.shared = shared

    def route(self, x: Tensor, router_x: Tensor) -> tuple[Tensor, Routing]:
        """Give every expert the weight that it has for the token's task."""
        weights = self.task_weights(router_x)
        if not self.softmax:
            return self.combine(x, weights)
        gates = edited_shares(self, softmax_over_experts(weights))
        return self.combine(x, gates, edited=True)
