"""Schedules: which task is played, and when."""

from sb3_moe_envs.schedules.base import Episode, Schedule, Slots
from sb3_moe_envs.schedules.cycle import Cycle
from sb3_moe_envs.schedules.interleave import Interleave, slot_counts

__all__ = ["Cycle", "Episode", "Interleave", "Schedule", "Slots", "slot_counts"]
