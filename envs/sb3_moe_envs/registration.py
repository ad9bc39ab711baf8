"""The Gymnasium ids of this package, in one table."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from sb3_moe_envs.minatar import GAMES
from sb3_moe_envs.suites import ATARI_GAMES, SUITES

NAMESPACE = "SB3MoE"


def _games(family: str, single: str, vector: str, games: tuple[str, ...]) -> dict[str, Any]:
    return {
        f"{family}-{game}": {
            "entry_point": single,
            "vector_entry_point": vector,
            "kwargs": {"game": game},
        }
        for game in games
    }


def _robot(robot: str) -> dict[str, Any]:
    return {
        "entry_point": "sb3_moe_envs.physics:mujoco",
        "kwargs": {"env_id": f"{robot}-v5"},
        "max_episode_steps": 1000,
    }


def _suite(name: str) -> dict[str, Any]:
    return {
        "entry_point": "sb3_moe_envs.multitask:MultiTaskEnv",
        "vector_entry_point": "sb3_moe_envs.vector.make:make_multitask_vector",
        "kwargs": {"tasks": name},
    }


#: what `gymnasium.register` is told, by the name in `SB3MoE/<name>-v0`
IDS: dict[str, dict[str, Any]] = {
    **_games(
        "MinAtar",
        "sb3_moe_envs.minatar:MinAtarEnv",
        "sb3_moe_envs.minatar:MinAtarVectorEnv",
        GAMES,
    ),
    **_games(
        "Atari",
        "sb3_moe_envs.vector.atari:AtariEnv",
        "sb3_moe_envs.vector.atari:AtariVectorWorld",
        ATARI_GAMES,
    ),
    "CartPole": {"entry_point": "sb3_moe_envs.physics:cartpole", "max_episode_steps": 500},
    "Pendulum": {"entry_point": "sb3_moe_envs.physics:pendulum", "max_episode_steps": 200},
    "Hopper": _robot("Hopper"),
    "HalfCheetah": _robot("HalfCheetah"),
    **{name.replace("/", "-"): _suite(name) for name in SUITES},
}


def register_all() -> None:
    """Register every id, unless it is registered already."""
    for name, entry in IDS.items():
        env_id = f"{NAMESPACE}/{name}-v0"
        if env_id not in gym.registry:
            gym.register(env_id, **entry)
