"""The Gymnasium ids of this package, in one table."""

from __future__ import annotations

import gymnasium as gym

from sb3_moe_envs.suites import MINATAR_GAMES, SUITES

NAMESPACE = "SB3MoE"


def register_games() -> None:
    """Register one id per MinAtar game."""
    for game in MINATAR_GAMES:
        gym.register(
            f"{NAMESPACE}/MinAtar-{game}-v0",
            entry_point="sb3_moe_envs.minatar:MinAtarEnv",
            vector_entry_point="sb3_moe_envs.minatar:MinAtarVectorEnv",
            kwargs={"game": game},
        )


def register_suites() -> None:
    """Register one id per suite: all its tasks in one environment."""
    for name in SUITES:
        gym.register(
            f"{NAMESPACE}/{name.replace('/', '-')}-v0",
            entry_point="sb3_moe_envs.multitask:MultiTaskEnv",
            vector_entry_point="sb3_moe_envs.vector.make:make_multitask_vector",
            kwargs={"tasks": name},
        )


def register_all() -> None:
    """Register every id."""
    register_games()
    register_suites()
