"""Watch an agent play with its routing beside it, and see what becomes of it without an expert."""

from sb3_moe.watching.importance import Importance, expert_importance
from sb3_moe.watching.interventions import only_expert, swap_experts, without_expert
from sb3_moe.watching.record import watch
from sb3_moe.watching.replay import Mixture, Replay, Run, Sleep, Track

__all__ = [
    "Importance",
    "Mixture",
    "Replay",
    "Run",
    "Sleep",
    "Track",
    "expert_importance",
    "only_expert",
    "swap_experts",
    "watch",
    "without_expert",
]
