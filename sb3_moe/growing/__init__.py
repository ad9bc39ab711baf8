"""Models that grow: from dense ones to experts, to more of these or fewer, and back."""

from sb3_moe.growing.densifying import Distilled, distill, to_dense
from sb3_moe.growing.experts import (
    add_experts,
    drop_masks,
    expert_log,
    freeze_experts,
    merge_experts,
    remove_experts,
    thaw_experts,
)
from sb3_moe.growing.upcycling import upcycle

__all__ = [
    "Distilled",
    "add_experts",
    "distill",
    "drop_masks",
    "expert_log",
    "freeze_experts",
    "merge_experts",
    "remove_experts",
    "thaw_experts",
    "to_dense",
    "upcycle",
]
