"""Which weights and statistics belong to which experts."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.utils.hooks import RemovableHandle


class Share(NamedTuple):
    """A weight or a buffer, and the experts that its entries belong to.

    :param tensor: the experts' entries, one expert's after the other on the first axis
    :param first: number of the first of these experts
    :param num_experts: how many there are
    """

    tensor: th.Tensor
    first: int
    num_experts: int

    def of(self, k: int) -> th.Tensor | None:
        """Return one expert's entries, None if it has none."""
        if not self.first <= k < self.first + self.num_experts:
            return None
        if self.num_experts == 1:
            return self.tensor
        return self.tensor.unflatten(0, (self.num_experts, -1))[k - self.first]


def apart_shares(modules: Iterable[nn.Module]) -> list[Share]:
    """Return the weights of experts that are separate modules.

    :param modules: one per expert; parameters that several of them hold together are left out
    """
    held = [(each, k) for k, module in enumerate(modules) for each in module.parameters()]
    holders: dict[nn.Parameter, set[int]] = {}
    for parameter, k in held:
        holders.setdefault(parameter, set()).add(k)
    return [Share(each, min(ks), 1) for each, ks in holders.items() if len(ks) == 1]


def apart_statistics(modules: Iterable[nn.Module]) -> list[Share]:
    """Return the buffers of experts that are separate modules.

    :param modules: one per expert
    """
    return [Share(each, k, 1) for k, module in enumerate(modules) for each in module.buffers()]


def entries_of(statistics: Sequence[Share], experts: Collection[int]) -> list[th.Tensor]:
    """Return the entries that some experts have in buffers.

    :param statistics: the buffers of all experts
    :param experts: numbers of the experts that are meant
    """
    found = (each.of(k) for each in statistics for k in sorted(experts))
    return [part for part in found if part is not None]


class KeptBuffers:
    """Restore buffers of a layer after each forward pass in training, by hooks of the layer.

    :param layer: the layer
    :param buffers: returns the layer's buffers that are meant, or views of parts of them
    """

    def __init__(self, layer: nn.Module, buffers: Callable[[Any], Sequence[th.Tensor]]) -> None:
        self._buffers = buffers
        self._before: list[tuple[th.Tensor, th.Tensor]] = []
        self.handles: list[RemovableHandle] = [
            layer.register_forward_pre_hook(self._remember),
            layer.register_forward_hook(self._put_back),
        ]

    def _remember(self, layer: nn.Module, args: Any) -> None:
        buffers = self._buffers(layer) if layer.training else ()
        self._before = [(each, each.clone()) for each in buffers]

    def _put_back(self, layer: nn.Module, args: Any, output: Any) -> None:
        for part, was in self._before:
            # `.data` hides the change from autograd. A normalization saves these buffers for its
            # backward pass, but doesn't read them there.
            part.data.copy_(was)
        self._before = []


def frozen_statistics(layer: Any) -> list[th.Tensor]:
    """Return the entries that a layer's frozen experts have in buffers."""
    return entries_of(layer.experts.statistics(), layer.frozen)
