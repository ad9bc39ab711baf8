"""Which number of a new network comes from where, and the same for its optimiser and its target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch as th
from torch import nn

from sb3_moe.growing.leaves import Held
from sb3_moe.growing.powers import filled, power_of
from sb3_moe.networks.base import Networks
from sb3_moe.networks.masks import COUNTS

Index = Any


@dataclass(frozen=True)
class Link:
    """Some numbers of a new tensor come from an old one.

    :param into: the new tensor
    :param source: the old tensor; None: nothing, a number stands there
    :param at: which of the new one's
    :param take: which of the old one's
    :param scale: how many times larger they are
    :param slope: how many times larger their gradient is
    :param value: the number, or numbers, where there is no source
    :param adds: whether that is added to what stands there
    """

    into: Held
    source: th.Tensor | None = None
    at: Index = ...
    take: Index = ...
    scale: float = 1.0
    slope: float = 1.0
    value: th.Tensor | float = 0.0
    adds: bool = False

    def write(self, into: th.Tensor, source: th.Tensor | None, factor: float) -> None:
        """Write numbers into a tensor of the shape of the new one.

        :param into: shaped like the new tensor
        :param source: shaped like the old one; None: the numbers that stand there
        :param factor: how many times larger they are
        """
        if source is None:
            value = self.value
            self.into.view(into)[self.at] = (
                self.into.view(into)[self.at] + value if self.adds else value
            )
        else:
            self.into.view(into)[self.at] = source[self.take] * factor


@dataclass
class Links:
    """All links between two policies, in the order in which they are to be written."""

    all: list[Link] = field(default_factory=list)

    @th.no_grad()
    def write_weights(self) -> None:
        """Write parameters and buffers."""
        for link in self.all:
            link.write(link.into.stored, link.source, link.scale)

    def write_targets(self, new: Networks, old: Networks) -> None:
        """Write the target networks, which lag behind in their own way.

        :param new: networks of the new policy, whose online weights are written
        :param old: networks of the old one
        """
        for online, target in new.targets().items():
            target.load_state_dict(online.state_dict())
        theirs, ours = _followers(new), _followers(old)
        Links(
            [
                replace(
                    link,
                    into=Held(theirs[link.into.stored], link.into.view),
                    source=None if link.source is None else ours.get(link.source, link.source),
                )
                for link in self.all
                if link.into.stored in theirs
            ]
        ).write_weights()

    def write_moments(
        self, new: Iterable[th.optim.Optimizer], old: Iterable[th.optim.Optimizer]
    ) -> None:
        """Write the running averages, which follow the gates: by g, and by g squared.

        Parameters without a source start without any.

        :param new: the optimisers of the new policy
        :param old: those of the old one
        """
        states = {p: state for each in old for p, state in each.state.items() if state}
        found: dict[th.Tensor, list[Link]] = {}
        for link in self.all:
            if link.source in states:
                found.setdefault(link.into.stored, []).append(link)
        for optimizer in new:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p in found:
                        optimizer.state[p] = _state(optimizer, p, found[p], states)


def _followers(networks: Networks) -> dict[th.Tensor, th.Tensor]:
    """Return the target's tensor for each online one that has any."""
    return {
        mine: theirs
        for online, target in networks.targets().items()
        for mine, theirs in zip(_tensors(online), _tensors(target), strict=True)
    }


def _tensors(module: nn.Module) -> list[th.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _state(
    optimizer: th.optim.Optimizer,
    parameter: th.Tensor,
    links: Sequence[Link],
    states: Mapping[th.Tensor, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return a parameter's state, put together from those that its numbers come from."""
    first = states[_source(links[0])]
    state: dict[str, Any] = {}
    for name, value in first.items():
        if name in COUNTS:
            state[name] = _count(optimizer, parameter, value)
        elif isinstance(value, th.Tensor):
            power = power_of(optimizer, name)
            average = th.full_like(parameter, th.nan)
            for link in links:
                link.write(average, states[_source(link)][name], link.slope**power)
            state[name] = filled(average, power)
        elif value is None:
            state[name] = None
    return state


def _count(optimizer: th.optim.Optimizer, parameter: th.Tensor, value: Any) -> Any:
    """Return a count where the optimiser wants it: with the parameter, or else on the CPU."""
    if not isinstance(value, th.Tensor):
        return value
    group = optimizer.param_groups[0]
    beside = group.get("fused") or group.get("capturable")
    return value.max().to(parameter.device if beside else "cpu", copy=True)


def _source(link: Link) -> th.Tensor:
    assert link.source is not None
    return link.source
