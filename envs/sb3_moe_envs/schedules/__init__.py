"""Schedules: which task is played, and when."""

from sb3_moe_envs.schedules.adaptive import Adaptive
from sb3_moe_envs.schedules.base import Episode, Schedule, Slots
from sb3_moe_envs.schedules.chosen import Chosen, Progress
from sb3_moe_envs.schedules.cycle import Cycle
from sb3_moe_envs.schedules.interleave import Interleave, slot_counts
from sb3_moe_envs.schedules.progress import LearningProgress
from sb3_moe_envs.schedules.sequence import Sequence

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
