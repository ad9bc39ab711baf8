"""Learned weights of the experts for each task.

Shapes: B batch, N tokens per sample, E experts, K tasks, I features of a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch as th
from torch import nn

from sb3_moe.layers.checks import one_of, yes_or_no
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.heirs import Heir
from sb3_moe.layers.moe import MoELayer, RouterInput
from sb3_moe.layers.routing import Routing, softmax_over_experts

WEIGHTS = ("linear", "softmax")


class TaskWeights(nn.Module):
    """A linear map of the one-hot task id.

    No ``nn.Linear``, since SB3's orthogonal init would visit it.

    :param num_tasks: K
    :param num_experts: E
    :param bias: whether there is one, for all tasks
    """

    def __init__(self, num_tasks: int, num_experts: int, *, bias: bool) -> None:
        super().__init__()
        # So that a sum of independent experts starts as strong as one of them.
        weight_KE = th.randn(num_tasks, num_experts) / math.sqrt(num_experts)
        self.weight_KE = nn.Parameter(weight_KE)
        self.bias_E = nn.Parameter(th.zeros(num_experts)) if bias else None

    @property
    def values_KE(self) -> th.Tensor:
        """What each task gives each expert."""
        return self.weight_KE if self.bias_E is None else self.weight_KE + self.bias_E

    def forward(self, onehot_BNK: th.Tensor) -> th.Tensor:
        """Return a task's row, whatever a normaliser made of the one-hot: (B, N, E)."""
        return self.values_KE[onehot_BNK.argmax(dim=-1)]


class EmbeddingMoE(MoELayer):
    """Weigh all experts by a learned row for each task.

    With linear weights that is how MOORE (arXiv 2311.11385) weighs experts; with a bias, linear
    experts in every layer and one row for all of these, a policy is parameterised as PaCo's.

    :param experts: the experts
    :param task_weights: a row for each task
    :param softmax: whether the weights are the softmax of the row
    :param shared: whether the layers of a network have one map together
    """

    name: ClassVar[str] = "embedding"
    title: ClassVar[str] = "Task embedding"
    meaning: ClassVar[str] = "weighed by a learned row for each task"
    learns: ClassVar[bool] = True
    sees_task: ClassVar[bool] = True

    def __init__(
        self,
        experts: Experts,
        task_weights: TaskWeights,
        *,
        softmax: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__(experts)
        self.task_weights = task_weights
        self.softmax = softmax
        self.shared = shared
        if softmax:
            self.steers_itself = True
            self.when_off = "the others share its weight"

    @classmethod
    def build(  # type: ignore[override]  # its options, by name
        cls,
        experts: Experts,
        sees: RouterInput,
        *,
        weights: str = "linear",
        bias: bool = False,
        shared: bool = False,
    ) -> Self:
        """Return the layer with a map of its own."""
        own = TaskWeights(sees.num_tasks, sees.num_experts, bias=bias)
        return cls(experts, own, softmax=weights == "softmax", shared=shared)

    @classmethod
    def check(cls, options: Mapping[str, Any], num_experts: int | None) -> None:
        """Check what the weights are."""
        one_of("weights", options["weights"], WEIGHTS)
        yes_or_no("bias", options["bias"])
        yes_or_no("shared", options["shared"])

    def join(self, first: MoELayer) -> None:
        """Take the map of the network's first such layer where it is to be one for all."""
        assert isinstance(first, EmbeddingMoE)
        if self.shared:
            self.task_weights = first.task_weights

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Give every expert its task's weight."""
        values_BNE = self.task_weights(router_BNR)
        if not self.softmax:
            return self.combine(x_BNI, values_BNE)
        return self.combine(x_BNI, softmax_over_experts(self._steered(values_BNE)))

    def take_copies(self) -> float:
        """Let weights that are no shares start as if they were.

        :raises ValueError: if they are not, since then no number makes their sum that of one expert
        """
        if not self.softmax:
            raise ValueError(
                f"`router`={self.name!r} with linear weights can't take copies, since they sum to "
                "something else for each task: use `router_kwargs` with weights='softmax'"
            )
        return 1.0

    @th.no_grad()
    def take_shares(self) -> None:
        """Let every task begin with the weights 1/E."""
        start = 0.0 if self.softmax else 1.0 / self.num_experts
        self.task_weights.weight_KE.fill_(start)
        if self.task_weights.bias_E is not None:
            self.task_weights.bias_E.zero_()

    def by_expert(self) -> dict[str, int]:
        """Name the rows and what is added to them."""
        axes = {"task_weights.weight_KE": 1}
        return axes if self.task_weights.bias_E is None else axes | {"task_weights.bias_E": 0}

    def options_for_others(self, *, shares: bool) -> dict[str, Any]:
        """There are none: rows can be anything."""
        return {}

    @th.no_grad()
    def share_out(self, heirs: Sequence[Heir], old: MoELayer) -> list[float]:
        """Write each task's weights, by what experts take over.

        One that starts anew takes its share of the sum of weights, which is 1 after a softmax.
        """
        assert isinstance(old, EmbeddingMoE)
        gates_KE = old.task_weights.values_KE
        gates_KE = gates_KE.softmax(-1) if self.softmax else gates_KE
        new = sum(heir.share for heir in heirs if heir.is_new)
        columns = [
            heir.share * gates_KE.sum(-1)
            if heir.is_new
            else (1.0 - new)
            * th.stack([share * gates_KE[:, k] for k, share in heir.gates.items()]).sum(0)
            for heir in heirs
        ]
        values_KE = th.stack(columns, dim=-1)
        values_KE = values_KE.log() if self.softmax else values_KE
        own = self.task_weights
        own.weight_KE.copy_(values_KE if own.bias_E is None else values_KE - own.bias_E)
        return [1.0] * self.num_experts

    def gates_of(self, task: int | None) -> list[float] | None:
        """Return a task's weights; of none they are known.

        :raises ValueError: if there is no such task
        """
        if task is None:
            return None
        values_E = self.task_weights.values_KE[task].detach()
        gates_E = values_E.softmax(-1) if self.softmax else values_E
        return [float(gate) for gate in gates_E]
