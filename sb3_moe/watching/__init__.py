"""Watch an agent play with its routing beside it, and see what becomes of it without an expert."""

from sb3_moe.watching.importance import Importance, expert_importance
from sb3_moe.watching.interventions import only_expert, swap_experts, without_expert
from sb3_moe.watching.recording import watch
from sb3_moe.watching.replays import DormantUnits, Mixture, Replay, Run, Track

__all__ = [
    "DormantUnits",
    "Importance",
    "Mixture",
    "Replay",
    "Run",
    "Track",
    "expert_importance",
    "only_expert",
    "swap_experts",
    "watch",
    "without_expert",
]
