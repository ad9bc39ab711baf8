"""A dense network read as stages: a linear layer with what stands around it, each fit to be reused.

SB3 builds every network as a list of linear layers with activations between (``create_mlp``).
Reading that list keeps each algorithm's own choices: widths, activations, CrossQ's BatchRenorm,
TD3's final tanh.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch as th
from torch import nn

from sb3_moe.layers.activations import is_norm


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
