"""Models that grow: from dense ones to experts, to more of these or fewer, and back."""

from sb3_moe.growing.densifying import to_dense
from sb3_moe.growing.distilling import Distilled, distil
from sb3_moe.growing.freezing import freeze_experts, thaw_experts
from sb3_moe.growing.logbook import expert_log
from sb3_moe.growing.number import add_experts, merge_experts, remove_experts
from sb3_moe.growing.sparsifying import drop_masks
from sb3_moe.growing.upcycling import upcycle

__all__ = [
    "Distilled",
    "add_experts",
    "distil",
    "drop_masks",
    "expert_log",
    "freeze_experts",
    "merge_experts",
    "remove_experts",
    "thaw_experts",
    "to_dense",
    "upcycle",
]
