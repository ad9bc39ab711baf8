"""Give a dense model experts, change the experts of a model, or make it dense again."""

from sb3_moe.growing.converting import Distilled, distill, to_dense, upcycle
from sb3_moe.growing.copying import copy_expert
from sb3_moe.growing.experts import (
    add_experts,
    drop_masks,
    freeze_experts,
    merge_experts,
    remove_experts,
    thaw_experts,
)

__all__ = [
    "Distilled",
    "add_experts",
    "copy_expert",
    "distill",
    "drop_masks",
    "freeze_experts",
    "merge_experts",
    "remove_experts",
    "thaw_experts",
    "to_dense",
    "upcycle",
]
