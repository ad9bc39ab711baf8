"""Which weights of a policy a sparse network does without, layer by layer.

Shapes: E experts (1 for a dense layer), H units, W weights of one expert's layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import BaseModel
from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.stacked import StackedConv2d, StackedLinear
from sb3_moe.measures.weights import WEIGHTED, incoming, weight_of
from sb3_moe.networks import Network, networks_of


class SparseLayer(NamedTuple):
    """A layer that can be sparse; each expert's is one of its own.

    :param tower: whose network it is in
    :param layer: the module
    :param weight: of it
    :param num_experts: E
    """

    tower: str
    layer: nn.Module
    weight: nn.Parameter
    num_experts: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one expert's weight."""
        is_stacked = isinstance(self.layer, StackedLinear | StackedConv2d)
        return tuple(self.weight.shape[1:] if is_stacked else self.weight.shape)

    def by_expert(self, tensor: th.Tensor) -> th.Tensor:
        """Return (E, W) of the weight or what is like it: a view where its memory is in order."""
        return tensor.reshape(self.num_experts, -1)

    def by_unit(self, tensor: th.Tensor) -> th.Tensor:
        """Return a view (E, H, ...) of the weight, or of what is like it, by what it leads into."""
        return incoming(self.layer)(tensor)


def sparse_layers(policy: BaseModel) -> list[SparseLayer]:
    """List the linear and convolutional layers of every online network, the last ones too.

    Left out, and so dense, are routers, biases, normalisations, LSTMs and what nothing learns.

    :param policy: of any algorithm
    """
    networks = networks_of(policy)
    learned = {
        parameter
        for optimizer in networks.optimizers().values()
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    }
    found: dict[nn.Parameter, SparseLayer] = {}
    for net in networks.networks():
        for layer in _layers(net):
            weight = weight_of(layer)
            if isinstance(weight, nn.Parameter) and weight in learned and weight not in found:
                experts = getattr(layer, "num_experts", 1)
                found[weight] = SparseLayer(net.tower, layer, weight, experts)
    return list(found.values())


def _layers(net: Network) -> Iterator[nn.Module]:
    parts = (net.extractor, net.memory, net.hidden, *net.heads)
    for part in parts:
        if part is not None:
            yield from _in(part)


def _in(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, MoELayer):
        module = module.experts
    if isinstance(module, WEIGHTED):
        yield module
    for child in module.children():
        yield from _in(child)
