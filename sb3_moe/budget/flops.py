"""FLOPs of one forward pass, by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from sb3_moe.layers import (
    ExpertChoiceMoE,
    LinearRouter,
    MoELayer,
    SoftMoE,
    SparseMoE,
    TaskMoE,
)


@contextmanager
def flops_by_module(module: nn.Module) -> Iterator[dict[int, int]]:
    """Count while the block runs: by id of each layer, an MoE layer as one."""
    flops: dict[int, int] = {}
    inside = {id(p) for m in module.modules() if isinstance(m, MoELayer) for p in m.modules()}

    def hook(layer: nn.Module, args: tuple[th.Tensor, ...], output: Any) -> None:
        if isinstance(layer, MoELayer):
            flops[id(layer)] = _moe_flops(layer, *args)
        elif id(layer) not in inside:
            flops[id(layer)] = _dense_flops(layer, args, output)

    handles = [m.register_forward_hook(hook) for m in module.modules()]
    try:
        yield flops
    finally:
        for handle in handles:
            handle.remove()


def _dense_flops(layer: nn.Module, args: tuple[th.Tensor, ...], output: Any) -> int:
    if isinstance(layer, nn.Linear):
        return 2 * output.numel() * layer.in_features
    if isinstance(layer, nn.Conv2d):
        window = math.prod(layer.kernel_size) * layer.in_channels // layer.groups
        return 2 * output.numel() * window
    if isinstance(layer, nn.LSTM):
        weights = sum(p.numel() for name, p in layer.named_parameters() if "weight" in name)
        return 2 * weights * args[0][..., 0].numel()
    return 0


def _moe_flops(layer: MoELayer, x_BNI: th.Tensor, router_BNR: th.Tensor | None = None) -> int:
    """Count what the routing needs, whichever path the layer took."""
    num_tokens, width = x_BNI.shape[1:]
    experts = layer.num_experts
    rows, mixing, scoring = experts * num_tokens, 0, 0
    if isinstance(layer, SoftMoE) and num_tokens > 1:
        rows = experts * layer.num_slots
        mixing = 2 * num_tokens * rows * (width + layer.experts.out_features)
    elif isinstance(layer, SparseMoE):
        rows = num_tokens * layer.top_k
    elif isinstance(layer, ExpertChoiceMoE):
        rows = experts * math.ceil(num_tokens * layer.top_k / experts)
    elif isinstance(layer, TaskMoE):
        rows = num_tokens
    router = getattr(layer, "router", None)
    if isinstance(router, LinearRouter):
        scoring = 2 * num_tokens * router.weight_RK.numel()
    return rows * _expert_flops(layer, width) + mixing + scoring


def _expert_flops(layer: MoELayer, width: int) -> int:
    expert = layer.experts.expert(0)
    with flops_by_module(expert) as flops:
        expert(th.zeros(1, width, device=next(expert.parameters()).device))
    return sum(flops.values())
