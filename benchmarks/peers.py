"""The layers that ours are compared with.

Shapes: B batch, N tokens, D features, H hidden, E experts, S slots per expert.
"""

import torch as th
from torch import nn


class LoopSoftMoE(nn.Module):
    """Soft MoE as most people write it: experts in an ``nn.ModuleList``, called one by one."""

    def __init__(self, dim: int, hidden: int, num_experts: int, num_slots: int) -> None:
        super().__init__()
        self.phi = nn.Parameter(th.randn(dim, num_experts, num_slots) / dim**0.5)
        self.experts = nn.ModuleList(mlp(dim, hidden) for _ in range(num_experts))

    def forward(self, x_BND: th.Tensor) -> th.Tensor:
        """Return the mixed outputs (B, N, D)."""
        logits = th.einsum("bnd,des->bnes", x_BND, self.phi)
        dispatch = logits.softmax(1)
        combine = logits.flatten(2).softmax(-1).view_as(logits)
        slots = th.einsum("bnd,bnes->besd", x_BND, dispatch)
        outputs = th.stack([expert(slots[:, e]) for e, expert in enumerate(self.experts)], 1)
        return th.einsum("besd,bnes->bnd", outputs, combine)


def mlp(dim: int, hidden: int) -> nn.Sequential:
    """Return one expert, or a dense layer, as plain modules."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))


def width_for_parameters(dim: int, parameters: int) -> int:
    """Return the hidden width with which ``mlp`` has about a given number of parameters."""
    return max(1, round((parameters - dim) / (2 * dim + 1)))


def soft_moe_pytorch(
    dim: int, hidden: int, num_experts: int, num_slots: int, *, offload: bool
) -> nn.Module:
    """Return soft-moe-pytorch's layer; by default each call checks for idle experts to offload."""
    from soft_moe_pytorch import SoftMoE  # type: ignore[import-untyped]

    return SoftMoE(
        dim,
        num_experts=num_experts,
        num_slots=num_slots,
        expert_mult=hidden / dim,
        offload_unused_experts_to_cpu=offload,
    )


def st_moe_pytorch(dim: int, hidden: int, num_experts: int, top_k: int) -> nn.Module:
    """Return st-moe-pytorch's layer; it drops tokens beyond an expert's capacity."""
    from st_moe_pytorch import MoE  # type: ignore[import-untyped]

    experts = nn.ModuleList(mlp(dim, hidden) for _ in range(num_experts))
    return MoE(dim, num_experts=num_experts, gating_top_n=top_k, experts=experts)
