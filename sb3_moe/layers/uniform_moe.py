"""The router that nobody learns: every expert counts the same.

Shapes: B batch, N tokens per sample, E experts, I features of a token, R features that the router
sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch as th

from sb3_moe.layers.experts import Experts
from sb3_moe.layers.heirs import Heir
from sb3_moe.layers.moe import MoELayer, RouterInput
from sb3_moe.layers.routing import Routing, softmax_over_experts


class UniformMoE(MoELayer):
    """Average all experts: the control that has experts but no router."""

    name: ClassVar[str] = "uniform"
    title: ClassVar[str] = "Uniform"
    meaning: ClassVar[str] = "all count the same (a control)"
    blind: ClassVar[bool] = True
    steers_itself: bool = True
    when_off: str = "the others share its weight"

    @classmethod
    def build(cls, experts: Experts, sees: RouterInput) -> Self:  # type: ignore[override]
        """Return the layer; there are no options."""
        return cls(experts)

    def take_shares(self) -> None:
        """Nothing is to be done: the gates are 1/E."""

    def share_out(self, heirs: Sequence[Heir], old: MoELayer) -> list[float]:
        """Scale outputs, since gates can't differ."""
        new = sum(heir.share for heir in heirs if heir.is_new)
        masses = [
            heir.share if heir.is_new else (1.0 - new) * sum(heir.gates.values()) / old.num_experts
            for heir in heirs
        ]
        return [mass * self.num_experts for mass in masses]

    def gates_of(self, task: int | None) -> list[float] | None:
        """Return 1/E for each expert."""
        return [1.0 / self.num_experts] * self.num_experts

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Give every expert the weight 1/E."""
        shape = (*x_BNI.shape[:2], self.num_experts)
        if self.steering is not None:
            scores_BNE = self.steering.scores(x_BNI.new_zeros(shape))
            return self.combine(x_BNI, softmax_over_experts(scores_BNE))
        return self.combine(x_BNI, x_BNI.new_full(shape, 1.0 / self.num_experts))
