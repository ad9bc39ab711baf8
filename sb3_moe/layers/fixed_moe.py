"""Routers that don't look at tokens: the task alone decides, or nothing does.

Shapes: E experts, K tasks.
"""

import math
from typing import ClassVar

import torch as th
from torch import nn

from sb3_moe.layers.checks import one_of, yes_or_no
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import MoELayer, RouterInput, edited_shares
from sb3_moe.layers.routing import Routing, softmax_over_experts


class TaskMoE(MoELayer):
    """Let the task id pick the expert: the paper's hardcoded router.

    :param experts: one for each task
    :param router_input: not used
    """

    name: ClassVar[str] = "task"
    sees: ClassVar = "task"
    needs_tasks: ClassVar[bool] = True
    leaves_out: ClassVar[bool] = True

    def __init__(self, experts: Experts, router_input: RouterInput) -> None:
        super().__init__(experts)

    def route(self, x: th.Tensor, router_x: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Send every token to its task's expert, whatever a normalizer made of the one-hot.

        :param x: what the experts see
        :param router_x: the one-hot task id; the largest entry is taken for the one
        """
        chosen = router_x.argmax(dim=-1, keepdim=True)
        gates = th.zeros_like(router_x).scatter(-1, chosen, 1.0)
        return self.combine(x, gates, experts=chosen)


class UniformMoE(MoELayer):
    """Average all experts: the control that has experts but no router.

    :param experts: the experts
    :param router_input: not used
    """

    name: ClassVar[str] = "uniform"
    sees: ClassVar = "nothing"

    def __init__(self, experts: Experts, router_input: RouterInput) -> None:
        super().__init__(experts)

    def route(self, x: th.Tensor, router_x: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Give every expert the weight 1/E."""
        gates = x.new_full((*x.shape[:-1], self.num_experts), 1.0 / self.num_experts)
        return self.combine(x, edited_shares(self, gates), edited=True)


class TaskEmbedding(nn.Module):
    """A learned row for each task.

    No ``nn.Linear``, since SB3's orthogonal init would visit it.

    :param num_tasks: K
    :param width: length of a row; at the start rows are about as long as a one-hot
    :param bias: whether there is one, for all tasks, 0 at first
    """

    def __init__(self, num_tasks: int, width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight_KW = nn.Parameter(th.randn(num_tasks, width) / math.sqrt(width))
        self.bias_W = nn.Parameter(th.zeros(width)) if bias else None

    @property
    def rows_KW(self) -> th.Tensor:
        """What each task has."""
        return self.weight_KW if self.bias_W is None else self.weight_KW + self.bias_W

    def forward(self, onehot: th.Tensor) -> th.Tensor:
        """Return a task's row, whatever a normalizer made of the one-hot: (..., K) to (..., W)."""
        return self.rows_KW[onehot.argmax(dim=-1)]


class EmbeddingMoE(MoELayer):
    """Weigh all experts by a learned row for each task.

    With linear weights that is how MOORE (arXiv 2311.11385) weighs experts; with a bias, linear
    experts in every layer and one row for all of these, a policy is parameterized as PaCo's.

    :param experts: the experts
    :param router_input: what the router is built for
    :param weights: ``"linear"``, or ``"softmax"`` of the row
    :param bias: whether there is one, for all tasks
    :param shared: whether the layers of a network have one embedding together
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is not valid
    """

    name: ClassVar[str] = "embedding"
    sees: ClassVar = "task"

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
        yes_or_no("bias", bias)
        yes_or_no("shared", shared)
        # At the start a sum of independent experts is as strong as one of them.
        self.task_weights = TaskEmbedding(router_input.num_tasks, self.num_experts, bias=bias)
        self.softmax = weights == "softmax"
        self.shared = shared

    def route(self, x: th.Tensor, router_x: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Give every expert its task's weight."""
        weights = self.task_weights(router_x)
        if not self.softmax:
            return self.combine(x, weights)
        gates = edited_shares(self, softmax_over_experts(weights))
        return self.combine(x, gates, edited=True)

    def expert_axes(self) -> dict[str, int]:
        """Return the rows and what is added to them."""
        axes = {"task_weights.weight_KW": 1}
        return axes if self.task_weights.bias_W is None else axes | {"task_weights.bias_W": 0}
