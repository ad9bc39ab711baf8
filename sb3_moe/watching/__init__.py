"""Watch an agent play and its routers decide, and see how it plays without an expert."""

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
