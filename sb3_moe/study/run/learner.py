"""Build the environment and the model of a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe.callbacks import LinearPerBlock
from sb3_moe.study.spec.algorithms import algorithm_class, policy_of
from sb3_moe.study.spec.arguments import arguments_of, described, normaliser_class
from sb3_moe.study.spec.config import CellConfig
from sb3_moe.study.spec.named import resolved
from sb3_moe.study.spec.schedules import schedule_of
from sb3_moe.study.spec.signatures import parameters_of
from sb3_moe.study.spec.tasks import make_env
from sb3_moe.vec_env.per_task_vec_normalize import (
    PerTaskVecNormalize,
    box_keys,
    refuse_whole_numbers,
)

__all__ = [
    "LinearPerBlock",
    "arguments_of",
    "build",
    "build_env",
    "build_model",
    "described",
    "ppo_arguments",
    "schedule_of",
    "stream",
]

#: 0.1's name of it.
ppo_arguments = arguments_of


def build(cell: CellConfig) -> tuple[BaseAlgorithm, VecEnv]:
    """Build a cell's model and its environment, before the first step."""
    seed = stream(cell.seed)
    env = build_env(cell, cell.n_envs, seed, schedule_of(cell))
    return build_model(cell, env, seed=seed, device=cell.device, **arguments_of(cell)), env


def stream(seed: int) -> int:
    """Spread seeds out: copy ``i`` of an environment seeded ``s`` is seeded ``s + i``.

    Neighbouring seeds of a study would otherwise share most of their environments' randomness.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)


def build_env(cell: CellConfig, n_envs: int, seed: int, schedule: Any) -> VecEnv:
    """Build the environment of a cell, in the normaliser that it asks for."""
    env = make_env(cell.games, n_envs, seed, schedule, **cell.world)
    if cell.normalize is None:
        return env
    kind = normaliser_class(cell.normalize)
    arguments = resolved(cell.normalize.arguments)
    takes_keys = "norm_obs_keys" in parameters_of(kind) and not issubclass(
        kind, PerTaskVecNormalize
    )
    if takes_keys and isinstance(env.observation_space, spaces.Dict):
        # SB3's own takes all keys, and the task's id is none that it could normalise.
        arguments.setdefault("norm_obs_keys", box_keys(env.observation_space))
    try:
        normalised: VecEnv = kind(env, **arguments)
        if isinstance(normalised, VecNormalize):
            refuse_whole_numbers(normalised)
    except Exception as error:  # SB3 looks up keys, and a user's class may do anything
        env.close()
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`normalize`: {cell.normalize} can't be built: {reason}") from error
    return normalised


def build_model(cell: CellConfig, env: VecEnv, **arguments: Any) -> BaseAlgorithm:
    """Build a cell's algorithm with its policy."""
    assert cell.architecture.policy is not None
    policy = policy_of(cell.architecture.policy, cell.algorithm)
    return algorithm_class(cell.algorithm)(policy, env, **arguments)
