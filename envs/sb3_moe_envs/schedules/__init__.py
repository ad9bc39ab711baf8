"""Schedules: which task is played, and when."""

from sb3_moe_envs.schedules.by_episode import (
    Chosen,
    Episode,
    Interleave,
    Progress,
    Schedule,
    Slots,
    slot_counts,
)
from sb3_moe_envs.schedules.by_turn import Adaptive, Cycle, LearningProgress, Sequence

__all__ = [
    "Adaptive",
    "Chosen",
    "Cycle",
    "Episode",
    "Interleave",
    "LearningProgress",
    "Progress",
    "Schedule",
    "Sequence",
    "Slots",
    "slot_counts",
]
