"""What is done with the outputs of a token's experts before they are summed.

Shapes: E experts, T rows, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch as th

# The authors add it to every norm, which in single precision is the same: an output of 0 stays 0.
TINY = 1e-8


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
        y_ETO = y_ETO.to(th.promote_types(y_ETO.dtype, th.float32))
        # Apart, since autograd makes a zero tensor of all experts for each slice of theirs.
        found, rest = [], list(y_ETO.unbind())
        while rest:
            first_TO = rest.pop(0)
            # Not `norm`, whose backward pass looks for zeros in every row.
            squares_T1 = (first_TO * first_TO).sum(-1, keepdim=True)
            unit_TO = first_TO * squares_T1.clamp_min(TINY**2).rsqrt()
            found.append(unit_TO)
            shares = [(y_TO * unit_TO).sum(-1, keepdim=True) for y_TO in rest]
            rest = [
                th.addcmul(y_TO, share_T1, unit_TO, value=-1)
                for y_TO, share_T1 in zip(rest, shares, strict=True)
            ]
        return th.stack(found)

    @staticmethod
    def flops(num_experts: int, out_features: int) -> int:
        """Count two products for each pair, and a norm for each expert."""
        return (2 * num_experts * (num_experts - 1) + 3 * num_experts) * out_features


#: By the option's value; None: outputs are summed as they are.
COMBINATIONS: dict[str, type[Combination] | None] = {"sum": None, Orthogonal.name: Orthogonal}
