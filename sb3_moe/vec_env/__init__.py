"""Environments for SB3: Gymnasium's vector environments, many tasks in one, buffers, evaluation."""

from sb3_moe.vec_env.belief import VecBelief
from sb3_moe.vec_env.evaluating import TaskEpisodes, evaluate_tasks
from sb3_moe.vec_env.gymnasium_vec_env import GymnasiumVecEnv
from sb3_moe.vec_env.make import make_multitask_vec_env, make_pinned_env
from sb3_moe.vec_env.past import VecHistory
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe.vec_env.replay_buffers import (
    DeviceReplayBuffer,
    MultiTaskReplayBuffer,
    ReturnScaledReplayBuffer,
)
from sb3_moe.vec_env.rollout_buffers import DeviceRolloutBuffer

__all__ = [
    "DeviceReplayBuffer",
    "DeviceRolloutBuffer",
    "GymnasiumVecEnv",
    "MultiTaskReplayBuffer",
    "PerTaskVecNormalize",
    "ReturnScaledReplayBuffer",
    "TaskEpisodes",
    "VecBelief",
    "VecHistory",
    "evaluate_tasks",
    "make_multitask_vec_env",
    "make_pinned_env",
]
