"""Schedules: which task is played, and when."""

from sb3_moe_envs.schedules.adaptive import Adaptive, LearningProgress
from sb3_moe_envs.schedules.base import Episode, Schedule, Slots
from sb3_moe_envs.schedules.cycle import Cycle, Sequence
from sb3_moe_envs.schedules.interleave import Chosen, Interleave, Progress, slot_counts

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
