"""Which of the experts' weights and statistics are whose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch as th
from torch import nn


class Share(NamedTuple):
    """A tensor that some experts have to themselves.

    :param parameter: their weights, one expert after the other on the first axis
    :param first: number of the first of these experts
    :param num_experts: how many there are
    """

    parameter: nn.Parameter
    first: int
    num_experts: int


class Statistic(NamedTuple):
    """A buffer that some experts have to themselves.

    :param buffer: their entries, one expert's after the other on the first axis
    :param first: number of the first of these experts
    :param num_experts: how many there are
    """

    buffer: th.Tensor
    first: int
    num_experts: int

    def of(self, k: int) -> th.Tensor | None:
        """Return one expert's entries, None if it has none."""
        if not self.first <= k < self.first + self.num_experts:
            return None
        if self.num_experts == 1:
            return self.buffer
        return self.buffer.unflatten(0, (self.num_experts, -1))[k - self.first]


def apart_shares(modules: Iterable[nn.Module]) -> list[Share]:
    """Return the shares of experts that are modules of their own.

    :param modules: one per expert; what several of them hold together is nobody's
    """
    held = [(each, k) for k, module in enumerate(modules) for each in module.parameters()]
    holders: dict[nn.Parameter, set[int]] = {}
    for parameter, k in held:
        holders.setdefault(parameter, set()).add(k)
    return [Share(each, min(ks), 1) for each, ks in holders.items() if len(ks) == 1]


def apart_statistics(modules: Iterable[nn.Module]) -> list[Statistic]:
    """Return the buffers of experts that are modules of their own.

    :param modules: one per expert
    """
    return [Statistic(each, k, 1) for k, module in enumerate(modules) for each in module.buffers()]


def entries_of(statistics: Sequence[Statistic], experts: Collection[int]) -> list[th.Tensor]:
    """Return what some experts have in their buffers.

    :param statistics: of all experts
    :param experts: whose
    """
    found = (each.of(k) for each in statistics for k in sorted(experts))
    return [part for part in found if part is not None]


@contextmanager
def unchanged(buffers: Sequence[th.Tensor]) -> Iterator[None]:
    """Leave buffers as they were.

    :param buffers: whole ones, or parts of some
    """
    before = [each.clone() for each in buffers]
    yield
    for part, was in zip(buffers, before, strict=True):
        # Behind autograd's back: a normalisation's backward pass has these buffers by it, and
        # doesn't read them.
        part.data.copy_(was)
