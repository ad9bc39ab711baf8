"""The dense network that SB3 built, read layer by layer, and its layers made anew for a network.

SB3 builds every network as a list of linear layers with activations between (``create_mlp``).
Reading that list keeps each algorithm's own choices: widths, activations, CrossQ's BatchRenorm,
TD3's final tanh.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

import torch as th
from torch import nn

from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.registry import simba_block
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.options import MoEOptions

Init = Callable[[nn.Module], object]


@dataclass
class Stage:
    """One linear layer, with the norms before it and the activation (and last norm) after it."""

    linear: nn.Linear
    norms: list[nn.Module] = field(default_factory=list)
    after: list[nn.Module] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Outputs of the layer."""
        return self.linear.out_features

    @property
    def last_norms(self) -> list[nn.Module]:
        """The norms behind the activation."""
        return [*reversed([*takewhile(is_norm, reversed(self.after))])]

    def activation(self, normed_width: int | None = None) -> nn.Module:
        """Return a copy of the activation.

        :param normed_width: with the norm before it, for rows of that width; None: without
        """
        before = self.after[: len(self.after) - len(self.last_norms)]
        own = [m for m in before if normed_width or not is_norm(m)]
        acts = [fitted(m, normed_width or self.width) for m in own]
        return acts[0] if len(acts) == 1 else nn.Sequential(*acts)


def read_stages(modules: Iterable[nn.Module]) -> list[Stage]:
    """Group a dense network's modules by linear layer."""
    stages: list[Stage] = []
    norms: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            stages.append(Stage(module, norms))
            norms = []
        elif is_norm(module):
            norms.append(module)
        else:
            stages[-1].after.append(module)
    if stages:
        stages[-1].after += norms
    return stages


def fitted(module: nn.Module, width: int) -> nn.Module:
    """Return a copy of what follows a dense layer, for rows of another width."""
    return resized(module, width) if is_norm(module) else own_copy(module)


def own_copy(activation: nn.Module) -> nn.Module:
    """Return an expert's own copy of a dense layer's activation."""
    activation = copy.deepcopy(activation)
    for each in activation.modules():
        if getattr(each, "inplace", False) is True:
            each.inplace = False  # type: ignore[assignment]  # a sum over experts may be a view
    return activation


def resized(norm: nn.Module, width: int) -> nn.Module:
    """Return the norm for another width; all entries of each of its tensors start alike."""
    norm = copy.deepcopy(norm)
    for tensor in [*norm.parameters(), *norm.buffers()]:
        if tensor.dim() == 1 and len(tensor) != width:
            tensor.data = tensor.data.new_full((width,), th.as_tensor(tensor.data[0]).item())
    if hasattr(norm, "normalized_shape"):
        norm.normalized_shape = (width,)  # type: ignore[assignment]  # a plain attribute
    else:
        norm.num_features = width  # type: ignore[assignment]
    return norm


class DenseLayers:
    """Makes what stands in a network for layers of the dense one.

    :param options: what the network is to be
    :param layout: what its first layer is given
    :param init_hidden: initializes hidden layers in place, as SB3 would
    :param sees_task: whether the task's id enters the first layer
    """

    def __init__(
        self, options: MoEOptions, layout: Layout, init_hidden: Init, *, sees_task: bool
    ) -> None:
        self.init_hidden = init_hidden
        task = options.task_width(layout.num_tasks) * sees_task
        #: Features that the first layer sees beside x.
        self.seen = task + layout.action_dim

    def plain(self, stage: Stage, width: int, *, first: bool) -> list[nn.Module]:
        """Return the layer as SB3 made it, for rows of another width if need be.

        :param stage: the dense layer
        :param width: of the rows, but for what the first layer sees beside them
        :param first: whether it is the first one
        """
        in_features = width + (self.seen if first else 0)
        norms = [] if first else self.norms(stage, width)
        linear = stage.linear
        if linear.in_features != in_features:
            linear = nn.Linear(in_features, linear.out_features)
            self.init_hidden(linear)
        return [*norms, linear, *stage.after]

    def simba(self, stage: Stage, width: int, *, first: bool, last: bool) -> list[nn.Module]:
        """Return a block in place of a dense layer, and the normalization behind the last one."""
        norms = [] if first else self.norms(stage, width)
        dim = width + (self.seen if first else 0)
        layers = self.simba_layers(stage, dim, stage.width, first=first, last=last)
        for layer in layers:
            self.init_hidden(layer)
        return [*norms, *layers, *(fitted(m, stage.width) for m in stage.last_norms)]

    def simba_layers(
        self, stage: Stage, dim: int, width: int, *, first: bool, last: bool
    ) -> list[nn.Module]:
        """Return the same block as it comes from torch, from rows of `dim` to rows of `width`."""
        embedding = [nn.Linear(dim, width)] if first or dim != width else []
        block = simba_block(width, stage.activation())
        return [*embedding, block, *([nn.LayerNorm(width)] if last else [])]

    @staticmethod
    def norms(stage: Stage, width: int) -> list[nn.Module]:
        """Return copies of the norms before a dense layer, for rows of some width."""
        return [resized(norm, width) for norm in stage.norms]
