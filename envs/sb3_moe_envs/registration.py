"""The Gymnasium ids of this package, in one table."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from sb3_moe_envs.minatar import GAMES
from sb3_moe_envs.suites import ATARI_GAMES, SUITES

NAMESPACE = "SB3MoE"


def _robot(robot: str) -> dict[str, Any]:
    return {
        "entry_point": "sb3_moe_envs.physics:mujoco",
        "kwargs": {"env_id": f"{robot}-v5"},
        "max_episode_steps": 1000,
    }


def _conflicting(name: str) -> dict[str, Any]:
    return {
        "entry_point": f"sb3_moe_envs.coordinates:{name}",
        "vector_entry_point": f"sb3_moe_envs.coordinates:{name}s",
    }


def _suite(name: str) -> dict[str, Any]:
    return {
        "entry_point": "sb3_moe_envs.multitask:MultiTaskEnv",
        "vector_entry_point": "sb3_moe_envs.vector.multitask:make_multitask_vector",
        "kwargs": {"tasks": name},
    }


#: arguments of `gymnasium.register`, by the name in `SB3MoE/<name>`
IDS: dict[str, dict[str, Any]] = {
    **{
        f"MinAtar-{game}-v1": {
            "entry_point": "sb3_moe_envs.minatar:MinAtarEnv",
            "vector_entry_point": "sb3_moe_envs.minatar:MinAtarVectorEnv",
            "kwargs": {"game": game},
        }
        for game in GAMES
    },
    **{
        f"Atari-{game}-v0": {
            "entry_point": "sb3_moe_envs.vector.atari:AtariEnv",
            "vector_entry_point": "sb3_moe_envs.vector.atari:AtariVectorEnv",
            "kwargs": {"game": game},
        }
        for game in ATARI_GAMES
    },
    "CartPole-v0": {"entry_point": "sb3_moe_envs.physics:cartpole", "max_episode_steps": 500},
    "Pendulum-v0": {"entry_point": "sb3_moe_envs.physics:pendulum", "max_episode_steps": 200},
    "ConflictingCartPole-v0": _conflicting("cartpole"),
    "ConflictingBreakout-v0": _conflicting("breakout"),
    "ShuffledBreakout-v0": _conflicting("breakout"),
    "Hopper-v0": _robot("Hopper"),
    "HalfCheetah-v0": _robot("HalfCheetah"),
    "MetaWorld-v0": {"entry_point": "sb3_moe_envs.metaworld:MetaWorldEnv"},
    **{f"{name.replace('/', '-')}-v0": _suite(name) for name in SUITES},
}


def register_all() -> None:
    """Register every id, unless it is registered already."""
    for name, entry in IDS.items():
        if f"{NAMESPACE}/{name}" not in gym.registry:
            gym.register(f"{NAMESPACE}/{name}", **entry)
