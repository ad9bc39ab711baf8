"""The control whose router is there, and is not trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import RouterInput
from sb3_moe.layers.routers import make_router
from sb3_moe.layers.soft_moe import SoftMoE, slots_for


class RandomMoE(SoftMoE):
    """Mix as Soft MoE does, with the random scores of the start."""

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random"
    meaning: ClassVar[str] = "weighed by a router that is not trained (a control)"
    learns: ClassVar[bool] = False
    losses: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def build(  # type: ignore[override]  # its options, by name
        cls,
        experts: Experts,
        sees: RouterInput,
        *,
        num_slots: int | None = None,
        normalize_router: bool = False,
        hidden: Sequence[int] = (),
        bias: bool = False,
    ) -> Self:
        """Return the layer with a router whose weights are buffers."""
        slots = slots_for(sees, num_slots)
        router = make_router(
            sees.features,
            sees.num_experts * slots,
            hidden=hidden,
            normalize=normalize_router,
            frozen=True,
            bias=bias,
        )
        return cls(experts, router, num_slots=slots)
