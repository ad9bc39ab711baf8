"""Callbacks for any SB3 algorithm: they evaluate every task, and measure or change networks."""

from sb3_moe.callbacks.by_task import (
    PopArtCallback,
    TaskAdvantageCallback,
    TaskGradientCallback,
    TaskRolloutCallback,
    TaskTemperatureCallback,
)
from sb3_moe.callbacks.evaluate import MultiTaskEvalCallback
from sb3_moe.callbacks.interventions import (
    EWCCallback,
    L2AnchorCallback,
    L2InitCallback,
    ReDoCallback,
    ResetHeadsCallback,
    ShrinkAndPerturbCallback,
    WeightNormDecayCallback,
)
from sb3_moe.callbacks.keeping import ReplayCallback, SnapshotCallback
from sb3_moe.callbacks.probing import (
    FreezeRouterCallback,
    PlasticityCallback,
    RoutingCallback,
    collect_probe,
)
from sb3_moe.callbacks.sparse import SparseTrainingCallback
from sb3_moe.callbacks.task_switch import NewTaskCallback, TaskSwitchCallback
from sb3_moe.policies.learning_rates import LinearPerBlock
from sb3_moe.saving.snapshot import save_snapshot
from sb3_moe.vec_env.evaluating import TaskEpisodes, evaluate_tasks
from sb3_moe.vec_env.make import make_pinned_env

__all__ = [
    "EWCCallback",
    "FreezeRouterCallback",
    "L2AnchorCallback",
    "L2InitCallback",
    "LinearPerBlock",
    "MultiTaskEvalCallback",
    "NewTaskCallback",
    "PlasticityCallback",
    "PopArtCallback",
    "ReDoCallback",
    "ReplayCallback",
    "ResetHeadsCallback",
    "RoutingCallback",
    "ShrinkAndPerturbCallback",
    "SnapshotCallback",
    "SparseTrainingCallback",
    "TaskAdvantageCallback",
    "TaskEpisodes",
    "TaskGradientCallback",
    "TaskRolloutCallback",
    "TaskSwitchCallback",
    "TaskTemperatureCallback",
    "WeightNormDecayCallback",
    "collect_probe",
    "evaluate_tasks",
    "make_pinned_env",
    "save_snapshot",
]
