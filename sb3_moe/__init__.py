"""Mixture-of-experts policies for Stable-Baselines3.

Importing this package registers the policy names with every algorithm that is installed:
``PPO("MoeMlpPolicy", env)``.
"""

from importlib.metadata import version

from sb3_moe.growing import (
    add_experts,
    freeze_experts,
    merge_experts,
    remove_experts,
    thaw_experts,
    to_dense,
    upcycle,
)
from sb3_moe.measures import describe
from sb3_moe.policies import presets
from sb3_moe.policies.of_model import routing
from sb3_moe.policies.registration import register
from sb3_moe.saving import UnsafeFileError, load, resume, save
from sb3_moe.vec_env.gymnasium_vec_env import GymnasiumVecEnv
from sb3_moe.vec_env.make import make_multitask_vec_env
from sb3_moe.watching import watch, without_expert

__all__ = [
    "GymnasiumVecEnv",
    "UnsafeFileError",
    "__version__",
    "add_experts",
    "describe",
    "freeze_experts",
    "load",
    "make_multitask_vec_env",
    "merge_experts",
    "presets",
    "remove_experts",
    "resume",
    "routing",
    "save",
    "thaw_experts",
    "to_dense",
    "upcycle",
    "watch",
    "without_expert",
]

#: The version, as in pyproject.toml.
__version__ = version("sb3-moe")

register()
