"""What someone who looks inside may do to a layer's routing: switch experts off, swap them.

Shapes: B batch, N tokens per sample, E experts, S slots per expert, K = E*S scores, k chosen
experts per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch as th


@dataclass(frozen=True)
class Steering:
    """Whose scores each expert gets, and which experts are off.

    :param order: for each expert, the one whose scores (or gates) it gets
    :param off: experts that don't count
    """

    order: tuple[int, ...]
    off: frozenset[int] = frozenset()

    @classmethod
    def nothing(cls, num_experts: int) -> Steering:
        """Return what changes nothing."""
        return cls(tuple(range(num_experts)))

    def without(self, *experts: int) -> Steering:
        """Switch experts off as well.

        :raises ValueError: if none would be left
        """
        off = self.off | {*experts}
        if len(off) == len(self.order):
            raise ValueError(f"at least one of the {len(self.order)} experts must stay on")
        return Steering(self.order, off)

    def swapped(self, first: int, second: int) -> Steering:
        """Give two experts each other's scores, whatever was done to these before."""
        to = {first: second, second: first}
        order = tuple(self.order[to.get(k, k)] for k in range(len(self.order)))
        return Steering(order, frozenset(to.get(k, k) for k in self.off))

    def scores(self, scores_BNK: th.Tensor) -> th.Tensor:
        """Return scores with those of experts that are off as low as a softmax needs to give 0.

        They stay finite: slots take a softmax over tokens too, in which all are equally low.

        :param scores_BNK: (..., E) or (..., E*S)
        """
        low = th.finfo(scores_BNK.dtype).min
        by_expert = self._ordered(scores_BNK.unflatten(-1, (len(self.order), -1)), dim=-2)
        off_E1 = self._is_off(scores_BNK).unsqueeze(-1)
        return by_expert.masked_fill(off_E1, low).flatten(-2)

    def gates(self, gates_BNE: th.Tensor) -> th.Tensor:
        """Return gates with 0 for experts that are off, and nothing more for the others."""
        return self._ordered(gates_BNE, dim=-1).masked_fill(self._is_off(gates_BNE), 0.0)

    def chosen(self, experts_BNk: th.Tensor) -> th.Tensor:
        """Return the experts that run in place of those that were chosen."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return experts_BNk.new_tensor(inverse)[experts_BNk]

    def _ordered(self, x: th.Tensor, dim: int) -> th.Tensor:
        return x.index_select(dim, th.tensor(self.order, device=x.device))

    def _is_off(self, like: th.Tensor) -> th.Tensor:
        is_off = [k in self.off for k in range(len(self.order))]
        return th.tensor(is_off, device=like.device)


class Steered(Protocol):
    """A layer that can be steered."""

    steering: Steering | None


@contextmanager
def steer(layer: Steered, steering: Steering) -> Iterator[None]:
    """Steer a layer while the block runs.

    :param layer: whose attribute of its own is gone again afterwards
    :param steering: what is done to its routing
    """
    before = vars(layer).get("steering")
    layer.steering = steering
    try:
        yield
    finally:
        if before is None:
            del layer.steering
        else:
            layer.steering = before
