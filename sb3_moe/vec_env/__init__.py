"""Gymnasium's vector environments for SB3, and many tasks in one."""

from sb3_moe.vec_env.gymnasium_vec_env import GymnasiumVecEnv
from sb3_moe.vec_env.make import make_multitask_vec_env
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize

__all__ = ["GymnasiumVecEnv", "PerTaskVecNormalize", "make_multitask_vec_env"]
