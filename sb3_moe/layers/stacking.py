"""From plain modules, one per expert, to stacked layers, and back.

Shapes: E experts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch as th
from torch import nn

from sb3_moe.layers.activations import ALIKE_ON_ROWS, is_alike_for_all
from sb3_moe.layers.encoder import (
    ImageEncoder,
    Residual,
    StackedImageEncoder,
    StackedResidual,
    split,
)
from sb3_moe.layers.stacked import (
    Stacked,
    StackedConv2d,
    StackedEach,
    StackedFlatten,
    StackedLinear,
    StackedNorm,
    StackedPReLU,
)
from sb3_moe.layers.tracing import is_watched

# Kinds of layers, exactly these, that are known to be the same stacked, on rows of features.
SAME_STACKED = (*ALIKE_ON_ROWS, nn.BatchNorm1d, nn.LayerNorm, nn.Linear, nn.PReLU)
LEAVES = (StackedLinear, StackedConv2d, StackedPReLU, StackedEach)
Function = Callable[[th.Tensor], th.Tensor]
# One expert's share of a leaf: its tensors, or its module.
OfOneExpert = tuple[Any, ...]


def stack(modules: Sequence[nn.Module]) -> nn.Module:
    """Return one module that does what each of these alike modules does, for all of them."""
    first = modules[0]
    match first:
        case nn.Linear():
            return StackedLinear(modules)  # type: ignore[arg-type]  # alike: all are Linear
        case nn.Conv2d():
            return StackedConv2d(modules)  # type: ignore[arg-type]
        case nn.Flatten():
            return StackedFlatten(len(modules))
        case Residual():
            blocks = [m.block for m in modules if isinstance(m, Residual)]
            return StackedResidual(stack_all(blocks), len(modules))
        case ImageEncoder():
            convs = [m.convs for m in modules if isinstance(m, ImageEncoder)]
            return StackedImageEncoder(stack_all(convs), first.image_shape, len(modules))
        case nn.PReLU() if type(first) is nn.PReLU:
            return StackedPReLU(modules)  # type: ignore[arg-type]
    if is_alike_for_all(first):
        return copy.deepcopy(first)
    if _normalises_over_rows(first):
        return StackedNorm(modules)
    return StackedEach(modules)


def _normalises_over_rows(module: nn.Module) -> bool:
    """Tell norms whose features don't see each other, so that E times as many are one norm."""
    over_pictures = isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)
    return hasattr(module, "num_features") and not over_pictures


def needs_all_rows(layers: nn.Module) -> bool:
    """Say whether stacked layers keep statistics over the batch, and so must see all of it."""
    return any(
        isinstance(m, StackedNorm)
        or (isinstance(m, StackedEach) and next(m.buffers(), None) is not None)
        for m in layers.modules()
    )


def stack_all(networks: Sequence[nn.Module]) -> nn.Sequential:
    """Stack alike networks layer by layer."""
    columns = zip(*(flat(network) for network in networks), strict=True)
    return nn.Sequential(*(stack(same) for same in columns))


def flat(module: nn.Module) -> list[nn.Module]:
    """Return a network's layers in order, those of nested sequences too."""
    if isinstance(module, nn.Sequential):
        return [layer for each in module for layer in flat(each)]
    return [module]


def can_stack(expert: nn.Module) -> bool:
    """Say whether an expert is known to be the same stacked: layers of known kinds, in a row.

    Stacking copies the weights alone, so none may be shared, frozen or computed, and no layer may
    have hooks.

    :param expert: ends in an ``nn.Linear`` if so
    """
    layers = flat(expert)
    rows = [m for m in expert.modules() if isinstance(m, nn.Sequential)]
    tensors = [id(t) for layer in layers for t in (*layer.parameters(), *layer.buffers())]
    return (
        bool(layers)
        and type(layers[-1]) is nn.Linear
        and all(type(layer) in SAME_STACKED for layer in layers)
        and all(type(row).forward is nn.Sequential.forward for row in rows)
        and len(tensors) == len(set(tensors))
        and all(parameter.requires_grad for parameter in expert.parameters())
        and not any(is_watched(m) for m in expert.modules())
    )


def check_alike(experts: Sequence[nn.Module]) -> None:
    """Raise ValueError unless the experts have the same modules and tensors of the same shapes."""
    first, *others = (str(expert) for expert in experts)
    for k, other in enumerate(others, start=1):
        if other != first:
            raise ValueError(f"`experts` must be alike, got {first} and, as expert {k}, {other}")


def unstack(layer: nn.Module, k: int) -> nn.Module:
    """Return expert ``k``'s share of a module that ``stack`` made."""
    match layer:
        case StackedImageEncoder():
            return ImageEncoder(unstack_all(layer.convs, k), layer.image_shape)
        case StackedResidual():
            return Residual(unstack_all(layer.block, k))
        case Stacked():
            return layer.unstack(k)
    return copy.deepcopy(layer)


def unstack_all(layers: nn.Sequential, k: int) -> nn.Sequential:
    """Return expert ``k``'s share of a stacked network."""
    return nn.Sequential(*(unstack(layer, k) for layer in layers))


def singles(layers: Iterable[nn.Module]) -> list[Function]:
    """Return each expert's share of stacked layers as a function of its rows.

    The weights are taken apart once, so that the backward pass puts their gradients together once.
    """
    network = nn.Sequential(*layers)
    leaves = [leaf for leaf in network.modules() if isinstance(leaf, LEAVES)]
    experts = zip(*(leaf.unbind() for leaf in leaves), strict=True)
    return [partial(_from_the_start, network, shares) for shares in experts]


def _from_the_start(network: nn.Module, shares: Sequence[OfOneExpert], x: th.Tensor) -> th.Tensor:
    return single(network, x, iter(shares))


def single(layer: nn.Module, x: th.Tensor, shares: Iterator[OfOneExpert]) -> th.Tensor:
    """Apply one expert's share of a module that ``stack`` made, taking its shares in order."""
    match layer:
        case StackedImageEncoder():
            image, rest = split(x, layer.image_shape)
            return th.cat([single(layer.convs, image, shares).flatten(1), rest], dim=1)
        case StackedResidual():
            return x + single(layer.block, x, shares)
        case nn.Sequential():
            for each in layer:
                x = single(each, x, shares)
            return x
        case StackedFlatten():
            return x.flatten(1)
        case StackedLinear() | StackedConv2d() | StackedPReLU() | StackedEach():
            return layer.single(x, next(shares))
    y: th.Tensor = layer(x)
    return y
