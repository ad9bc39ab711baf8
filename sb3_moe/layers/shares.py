"""Which of the experts' weights are whose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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


def apart(modules: Iterable[nn.Module]) -> list[Share]:
    """Return the shares of experts that are modules of their own.

    :param modules: one per expert; what several of them hold together is nobody's
    """
    held = [(each, k) for k, module in enumerate(modules) for each in module.parameters()]
    holders: dict[nn.Parameter, set[int]] = {}
    for parameter, k in held:
        holders.setdefault(parameter, set()).add(k)
    return [Share(each, min(ks), 1) for each, ks in holders.items() if len(ks) == 1]
