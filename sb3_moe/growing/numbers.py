"""All numbers of some networks in one long row, so that copying is a matter of places alone.

A map from new networks to old ones says which places of one row come from which of the other. It
is the same for weights, for what optimizers keep of them, and for where penalties draw them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch as th
from torch import nn

from sb3_moe.layers import Experts
from sb3_moe.layers.encoder import ImageEncoder, Residual

# What stands in a tensor's place: as many numbers, one number for all, or None for nothing.
Read = Callable[[th.Tensor], th.Tensor | None]


class Leaf(NamedTuple):
    """A module that holds numbers.

    :param is_linear: whether it is a linear layer
    :param places: of its numbers, shaped as its parameters and buffers are, by their names
    """

    is_linear: bool
    places: dict[str, th.Tensor]

    def __str__(self) -> str:
        """Name the shapes."""
        shapes = {name: tuple(each.shape) for name, each in self.places.items()}
        return f"{'a linear layer' if self.is_linear else 'a layer'} of {shapes}"


class Numbers:
    """The places of all numbers of some networks.

    :param modules: the networks
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.starts: dict[th.Tensor, int] = {}
        self.total = 0
        for tensor in (t for each in modules for t in (*each.parameters(), *each.buffers())):
            if tensor not in self.starts:
                self.starts[tensor] = self.total
                self.total += tensor.numel()

    def places(self, tensor: th.Tensor) -> th.Tensor:
        """Return the places of a tensor's numbers, shaped as it is."""
        start = self.starts[tensor]
        return th.arange(start, start + tensor.numel()).view(tensor.shape)

    def leaves(self, modules: Iterable[nn.Module]) -> list[Leaf]:
        """Return what holds numbers in plain modules that run one after the other."""
        return list(_leaves(modules, self.places))

    def expert(self, experts: Experts, k: int) -> list[Leaf]:
        """Return what holds numbers in one expert, as if it were a plain network.

        :param experts: stacked or apart, which know what belongs to expert ``k``
        :param k: its number
        """
        with self._in_place(experts):
            return list(_leaves(experts.expert(k), lambda tensor: tensor.detach().long()))

    @contextmanager
    def _in_place(self, module: nn.Module) -> Iterator[None]:
        """Let each number of a module be its place for a while."""
        tensors = [*module.parameters(), *module.buffers()]
        before = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                places = self.places(tensor)
                tensor.data = places.double() if tensor.is_floating_point() else places
            yield
        finally:
            for tensor, data in zip(tensors, before, strict=True):
                tensor.data = data

    def row(self, read: Read) -> th.Tensor:
        """Return what stands in each place: nan where nothing is known.

        :param read: from a tensor of the networks to what stands in its place
        """
        row = th.full((self.total,), math.nan, dtype=th.float64)
        for tensor, start in self.starts.items():
            value = read(tensor)
            if value is not None:
                flat = value.detach().flatten().to("cpu", th.float64)
                row[start : start + tensor.numel()] = flat
        return row

    @th.no_grad()
    def write(self, row: th.Tensor, read: Read) -> None:
        """Write a row into tensors.

        :param row: of :meth:`row`
        :param read: from a tensor of the networks to the one that is written; None: none is
        """
        for tensor in self.starts:
            into = read(tensor)
            if into is not None:
                values = row[self.places(tensor)]
                into.copy_(values if into.is_floating_point() else values.round())


def _leaves(
    modules: Iterable[nn.Module], places: Callable[[th.Tensor], th.Tensor]
) -> Iterator[Leaf]:
    for module in modules:
        match module:
            case nn.Sequential():
                yield from _leaves(module, places)
            case ImageEncoder():
                yield from _leaves(module.convs, places)
            case Residual():
                yield from _leaves([module.block], places)
            case _:
                named = [*module.named_parameters(), *module.named_buffers()]
                if named:
                    found = {name: places(tensor) for name, tensor in named}
                    yield Leaf(isinstance(module, nn.Linear), found)
