"""Multi-task and continual environments for Gymnasium."""

from sb3_moe_envs.belief import Belief
from sb3_moe_envs.multitask import MultiTaskEnv
from sb3_moe_envs.schedules import (
    Adaptive,
    Chosen,
    Cycle,
    Interleave,
    LearningProgress,
    Schedule,
    Sequence,
)
from sb3_moe_envs.suites import SUITES, get_suite, register_all, register_suite
from sb3_moe_envs.tasks import Task, TaskError
from sb3_moe_envs.vector.multitask import MultiTaskVectorEnv, make_multitask_vector

register_all()

__all__ = [
    "SUITES",
    "Adaptive",
    "Belief",
    "Chosen",
    "Cycle",
    "Interleave",
    "LearningProgress",
    "MultiTaskEnv",
    "MultiTaskVectorEnv",
    "Schedule",
    "Sequence",
    "Task",
    "TaskError",
    "get_suite",
    "make_multitask_vector",
    "register_suite",
]
