"""FLOPs of one forward pass, by layer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from sb3_moe.layers import LinearRouter, MoELayer

# Layers of torch's with products of matrices that nobody counts here.
UNCOUNTED = (
    nn.Bilinear,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.GRUCell,
    nn.LSTMCell,
    nn.MultiheadAttention,
    nn.RNNCell,
)


@contextmanager
def flops_by_module(module: nn.Module, parts: Iterable[object] = ()) -> Iterator[dict[int, int]]:
    """Count while the block runs: by id of each layer, an MoE layer's experts with it.

    A layer counts as often as it is used, but that of a part only in the part's last run: SB3's
    methods run an extractor once for each network that reads it.

    :param module: with the layers
    :param parts: modules of it that count once, however often they run
    """
    flops: dict[int, int] = {}
    counts = [flops]  # of the parts that run, the innermost last
    layers = [m for m in module.modules() if isinstance(m, MoELayer)]
    inside = {id(part) for layer in layers for part in layer.experts.modules()}
    known = {id(part) for part in parts}

    def begin(layer: nn.Module, args: tuple[th.Tensor, ...]) -> None:
        if id(layer) in known:
            counts.append({})

    def end(layer: nn.Module, args: tuple[th.Tensor, ...], output: Any) -> None:
        mine, now = id(layer), counts[-1]
        if isinstance(layer, MoELayer):
            now[mine] = now.get(mine, 0) + _moe_flops(layer, args[0])
        elif mine not in inside:
            now[mine] = now.get(mine, 0) + _dense_flops(layer, args, output)
        if mine in known:
            flops.update(counts.pop())

    handles = [m.register_forward_pre_hook(begin) for m in module.modules()]
    handles += [m.register_forward_hook(end) for m in module.modules()]
    try:
        yield flops
    finally:
        for handle in handles:
            handle.remove()


def _dense_flops(layer: nn.Module, args: tuple[th.Tensor, ...], output: Any) -> int:
    if isinstance(layer, nn.Linear):
        return 2 * output.numel() * layer.in_features
    if isinstance(layer, LinearRouter):
        return 2 * output.numel() * layer.weight_RK.shape[0]
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        window = math.prod(layer.kernel_size) * layer.in_channels // layer.groups
        return 2 * output.numel() * window
    if isinstance(layer, nn.RNNBase):
        weights = sum(p.numel() for name, p in layer.named_parameters() if "weight" in name)
        return 2 * weights * args[0][..., 0].numel()
    if type(layer) in UNCOUNTED:
        name = type(layer).__name__
        warnings.warn(
            f"FLOPs of {name} count as 0: those of networks with it are more", stacklevel=2
        )
    return 0


def _moe_flops(layer: MoELayer, x_BNI: th.Tensor) -> int:
    """Count what the routing needs of the experts, whichever path the layer took."""
    num_tokens, width = x_BNI.shape[1:]
    experts = layer.rows(num_tokens) * _expert_flops(layer, x_BNI)
    if layer.experts.combination is not None:
        sizes = layer.num_experts, layer.experts.out_features
        experts += num_tokens * layer.experts.combination.flops(*sizes)
    return experts + layer.extra_flops(num_tokens, width)


def _expert_flops(layer: MoELayer, x_BNI: th.Tensor) -> int:
    expert = layer.experts.expert(0)
    with flops_by_module(expert) as flops:
        expert(x_BNI.new_zeros(1, x_BNI.shape[-1]))
    return sum(flops.values())
