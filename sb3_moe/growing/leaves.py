"""What of a network holds numbers, in the order in which it runs, expert by expert where stacked.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch as th
from torch import nn

from sb3_moe.layers import Experts
from sb3_moe.layers.encoder import ImageEncoder, Residual
from sb3_moe.layers.experts import SeparateNetworks, StackedNetwork
from sb3_moe.layers.stacked import (
    Stacked,
    StackedBatchNorm,
    StackedConv2d,
    StackedEach,
    StackedImageEncoder,
    StackedLinear,
    StackedResidual,
    flat,
)

View = Callable[[th.Tensor], th.Tensor]


def itself(tensor: th.Tensor) -> th.Tensor:
    """Return a tensor as it is."""
    return tensor


@dataclass(frozen=True)
class Held:
    """A tensor of one network, as a part of the tensor that is stored.

    :param stored: parameter or buffer
    :param view: the part of it, or of a tensor of its shape, that the network has
    """

    stored: th.Tensor
    view: View = itself

    @property
    def value(self) -> th.Tensor:
        """The part."""
        return self.view(self.stored)


@dataclass(frozen=True)
class Leaf:
    """A module that holds numbers.

    :param is_linear: whether it is a linear layer
    :param tensors: parameters and buffers by the names of the plain module
    :param beside: linear layers that read the same, and whose outputs come behind
    """

    is_linear: bool
    tensors: dict[str, Held]
    beside: tuple[Leaf, ...] = ()

    def __str__(self) -> str:
        """Name the shapes."""
        shapes = {name: tuple(held.value.shape) for name, held in self.tensors.items()}
        return f"{'a linear layer' if self.is_linear else 'a layer'} of {shapes}"


def plain_leaves(modules: Iterable[nn.Module]) -> list[Leaf]:
    """Return what holds numbers in plain modules that run one after the other."""
    return [leaf for module in modules for leaf in _plain(module)]


def _plain(module: nn.Module) -> list[Leaf]:
    match module:
        case nn.Sequential():
            return plain_leaves(module)
        case ImageEncoder():
            return plain_leaves(module.convs)
        case Residual():
            return _plain(module.block)
    named = [*module.named_parameters(), *module.named_buffers()]
    held = {name: Held(tensor) for name, tensor in named}
    return [Leaf(isinstance(module, nn.Linear), held)] if held else []


def expert_leaves(experts: Experts, k: int) -> list[Leaf]:
    """Return what holds numbers in one expert.

    :param experts: stacked or apart
    :param k: its number
    """
    if isinstance(experts, SeparateNetworks):
        return plain_leaves(flat(experts.each[k]))
    assert isinstance(experts, StackedNetwork)
    return [leaf for each in (*experts.layers, experts.last) for leaf in _stacked(each, k)]


def _stacked(module: nn.Module, k: int) -> list[Leaf]:
    match module:
        case StackedImageEncoder():
            return [leaf for each in module.convs for leaf in _stacked(each, k)]
        case StackedResidual():
            return [leaf for each in module.block for leaf in _stacked(each, k)]
        case StackedLinear():
            view = partial(_last, k) if module.last else partial(_row, k)
            return [_weighted(module.weight, view, module.bias_EO, k, is_linear=True)]
        case StackedConv2d():
            return [_weighted(module.weight_EOIhw, partial(_row, k), module.bias_EO, k)]
        case StackedEach():
            return _plain(module.each[k])
        case StackedBatchNorm():
            return [_norm(module, k)]
        case Stacked():
            return []
    return _plain(module)


def _weighted(
    weight: th.Tensor, view: View, bias: th.Tensor | None, k: int, *, is_linear: bool = False
) -> Leaf:
    held = {"weight": Held(weight, view)}
    if bias is not None:
        held["bias"] = Held(bias, partial(_row, k))
    return Leaf(is_linear, held)


def _norm(module: StackedBatchNorm, k: int) -> Leaf:
    named = [*module.norm.named_parameters(), *module.norm.named_buffers()]
    part = partial(_chunk, module.num_experts, k)
    return Leaf(False, {name: Held(t, part if t.dim() else itself) for name, t in named})


def _row(k: int, tensor: th.Tensor) -> th.Tensor:
    return tensor[k]


def _last(k: int, tensor: th.Tensor) -> th.Tensor:
    return tensor[k].mT


def _chunk(num_experts: int, k: int, tensor: th.Tensor) -> th.Tensor:
    return tensor.chunk(num_experts)[k]
