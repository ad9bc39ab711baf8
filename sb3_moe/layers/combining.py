"""What is done with the outputs of a token's experts before they are summed.

Shapes: E experts, T rows, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch as th

from sb3_moe.layers.orthonormal import OrthonormalSum, gram_schmidt
from sb3_moe.layers.stacked import gated_sum
from sb3_moe.layers.tracing import is_eager


class Combination(ABC):
    """A way to make other outputs of all experts' outputs.

    :cvar name: how options call it
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def check(cls, num_experts: int, out_features: int) -> None:
        """Raise ValueError where so many experts with so many outputs can't be combined."""

    @staticmethod
    @abstractmethod
    def outputs(y_ETO: th.Tensor) -> th.Tensor:
        """Return what is summed in place of the outputs."""

    @classmethod
    def mixture(cls, y_ETO: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Return the sum, weighted by the gates: (T, O)."""
        return gated_sum(cls.outputs(y_ETO), gates_TE)

    @staticmethod
    @abstractmethod
    def flops(num_experts: int, out_features: int) -> int:
        """Return what that costs for a row."""


class Orthogonal(Combination):
    """Make every row's outputs orthonormal over the experts, by Gram-Schmidt (MOORE, 2311.11385).

    Expert 0 keeps its direction, and each further one what is left of its own.
    """

    name: ClassVar[str] = "orthogonal"

    @classmethod
    def check(cls, num_experts: int, out_features: int) -> None:
        """Refuse more experts than there are directions."""
        if num_experts > out_features:
            raise ValueError(
                f"`combine`={cls.name!r} needs experts with at least as many outputs as there are "
                f"experts, {num_experts}, got {out_features}: fewer experts, or wider layers "
                "(`net_arch`)"
            )

    @staticmethod
    def outputs(y_ETO: th.Tensor) -> th.Tensor:
        """Return orthonormal outputs, of which later ones lose rounding errors too."""
        # Squares of halves, under autocast, would lose most of their digits.
        units, _, _ = gram_schmidt(y_ETO.to(th.promote_types(y_ETO.dtype, th.float32)))
        return th.stack(units)

    @classmethod
    def mixture(cls, y_ETO: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Return the sum, as one operation where nothing looks into it."""
        if not is_eager():
            return super().mixture(y_ETO, gates_TE)
        dtype = th.promote_types(th.promote_types(y_ETO.dtype, gates_TE.dtype), th.float32)
        y_TO: th.Tensor = OrthonormalSum.apply(y_ETO.to(dtype), gates_TE.to(dtype))  # type: ignore[no-untyped-call]  # torch's
        return y_TO

    @staticmethod
    def flops(num_experts: int, out_features: int) -> int:
        """Count two products for each pair, and a norm for each expert."""
        return (2 * num_experts * (num_experts - 1) + 3 * num_experts) * out_features


#: By the option's value; None: outputs are summed as they are.
COMBINATIONS: dict[str, type[Combination] | None] = {"sum": None, Orthogonal.name: Orthogonal}
