"""Callbacks for any algorithm of SB3: look at every task, and inside the networks."""

from sb3_moe.callbacks.checkpoint import SnapshotCallback, save_snapshot
from sb3_moe.callbacks.evaluate import MultiTaskEvalCallback
from sb3_moe.callbacks.evaluation import TaskEpisodes, evaluate_tasks
from sb3_moe.callbacks.pinned_env import make_pinned_env
from sb3_moe.callbacks.plasticity import PlasticityCallback
from sb3_moe.callbacks.probing import collect_probe
from sb3_moe.callbacks.rollout import TaskRolloutCallback
from sb3_moe.callbacks.routing import RoutingCallback

__all__ = [
    "MultiTaskEvalCallback",
    "PlasticityCallback",
    "RoutingCallback",
    "SnapshotCallback",
    "TaskEpisodes",
    "TaskRolloutCallback",
    "collect_probe",
    "evaluate_tasks",
    "make_pinned_env",
    "save_snapshot",
]
