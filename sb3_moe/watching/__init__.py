"""Watch an agent play and its routers decide, and see how it plays without an expert."""

from sb3_moe.watching.importance import Importance, expert_importance
from sb3_moe.watching.interventions import without_expert
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
    "watch",
    "without_expert",
]
