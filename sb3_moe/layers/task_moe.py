"""The paper's hardcoded router.

Shapes: B batch, N tokens per sample, E experts (one for each task), I features of a token.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch as th

from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import MoELayer, RouterInput
from sb3_moe.layers.routing import Routing


class TaskMoE(MoELayer):
    """Let the task id pick the expert."""

    name: ClassVar[str] = "task"
    title: ClassVar[str] = "Task"
    meaning: ClassVar[str] = "the task picks its own"
    needs_tasks: ClassVar[bool] = True
    leaves_out: ClassVar[bool] = True

    @classmethod
    def build(cls, experts: Experts, sees: RouterInput) -> Self:  # type: ignore[override]
        """Return the layer; there are no options."""
        return cls(experts)

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Send every token to its task's expert, whatever a normaliser made of the one-hot.

        :param router_BNR: the one-hot task id; the largest entry is taken for the one
        """
        experts_BN1 = router_BNR.argmax(dim=-1, keepdim=True)
        gates_BNE = th.zeros_like(router_BNR).scatter(-1, experts_BN1, 1.0)
        return self.combine(x_BNI, gates_BNE, experts_BNk=experts_BN1)

    def gates_of(self, task: int | None) -> list[float] | None:
        """Return 1 for the task's own expert.

        :raises ValueError: if no task is named, or there is no such task
        """
        if task is None and self.num_experts > 1:
            raise ValueError(
                f"`task` must be one of 0 to {self.num_experts - 1} with `router`={self.name!r}, "
                "whose experts serve a task each, got None"
            )
        return [float(k == (task or 0)) for k in range(self.num_experts)]

    @property
    def num_chosen(self) -> int:
        """One expert serves a token."""
        return 1
