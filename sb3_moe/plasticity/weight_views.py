"""Weights as the layers of this package and torch's store them, seen by expert and unit.

Shapes: E experts (1 for a dense layer), H units, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch as th
from torch import nn

from sb3_moe.layers import LinearRouter
from sb3_moe.layers.stacked import StackedConv2d, StackedLinear

#: Layers with weights from each input to each output, dense or stacked.
WEIGHTED = (nn.Linear, nn.Conv2d, StackedLinear, StackedConv2d)

# A view of a tensor that a layer stores, or of Adam's moments of it, by expert and unit.
View = Callable[[th.Tensor], th.Tensor]


def bias_of(layer: nn.Module) -> th.Tensor | None:
    """Return a layer's bias as it is stored, None where it has none."""
    bias = getattr(layer, "bias_EO" if hasattr(layer, "bias_EO") else "bias", None)
    assert isinstance(bias, th.Tensor | None)
    return bias


def weight_of(layer: nn.Module) -> th.Tensor:
    """Return a layer's weight as it is stored."""
    match layer:
        case StackedConv2d():
            return layer.weight_EOIhw
        case LinearRouter():
            return layer.weight_RK
    assert isinstance(layer.weight, th.Tensor)
    return layer.weight


def incoming(layer: nn.Module) -> View:
    """Return the view (E, H, ...) of a layer's weight or bias by the unit that it leads into."""
    if isinstance(layer, StackedLinear):
        return lambda tensor: tensor.mT if layer.last and tensor.dim() == 3 else tensor
    if isinstance(layer, StackedConv2d):
        return lambda tensor: tensor
    return lambda tensor: tensor.unsqueeze(0)


def outgoing(layer: nn.Module, num_experts: int, units: int, inputs: int) -> View:
    """Return the view (E, H, ...) of a layer's weight by the unit that it leads out of.

    :param layer: whose inputs begin with the units, equally many inputs for each
    :param num_experts: E of the hidden layer; 1 where a dense one is read by every expert
    :param units: H
    :param inputs: how many of the layer's inputs belong to the units; others, such as a one-hot
        task id, come after them
    """

    def view(tensor: th.Tensor) -> th.Tensor:
        tensor_EOI = _as_EOI(layer, tensor)[:, :, :inputs]
        by_unit = tensor_EOI.unflatten(2, (units, -1)).movedim(2, 1)
        # A dense unit that every expert reads has outgoing weights in all of them.
        return by_unit if num_experts == len(by_unit) else by_unit.movedim(1, 0).unsqueeze(0)

    return view


def _as_EOI(layer: nn.Module, tensor: th.Tensor) -> th.Tensor:
    match layer:
        case StackedLinear():
            return tensor.mT if layer.last else tensor
        case StackedConv2d():
            return tensor
        case LinearRouter():
            return tensor.mT.unsqueeze(0)
    return tensor.unsqueeze(0)
