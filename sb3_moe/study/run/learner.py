"""Build the environment and the model of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.callbacks import LinearPerBlock
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.presets import MINATAR_PPO
from sb3_moe.study.spec.architectures import policy_of
from sb3_moe.study.spec.config import Architecture, CellConfig
from sb3_moe.study.spec.games import make_env


def build(cell: CellConfig) -> tuple[PPO, VecEnv]:
    """Build a cell's model and its environment, before the first step."""
    seed = stream(cell.seed)
    env = make_env(cell.games, cell.n_envs, seed, schedule_of(cell), cell.no_op_max)
    policy = policy_of(cell.architecture.policy)
    return PPO(policy, env, seed=seed, device=cell.device, **ppo_arguments(cell)), env


def stream(seed: int) -> int:
    """Spread seeds out: copy ``i`` of an environment seeded ``s`` is seeded ``s + i``.

    Neighbouring seeds of a study would otherwise share most of their environments' randomness.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)


def schedule_of(cell: CellConfig) -> Any:
    """Say which task is played when."""
    from sb3_moe_envs import Cycle, Interleave

    if cell.regime == "mtrl":
        return Interleave()
    return Cycle(cell.steps_per_task, order=list(cell.order), num_cycles=cell.cycles)


def ppo_arguments(cell: CellConfig) -> dict[str, Any]:
    """Lay the cell's values over the preset's."""
    architecture = cell.architecture
    arguments = {**MINATAR_PPO, **cell.ppo, **architecture.ppo}
    arguments["policy_kwargs"] = {**_policy_preset(architecture), **architecture.policy_kwargs}
    rate = arguments["learning_rate"]
    if cell.annealing == "run":
        arguments["learning_rate"] = LinearSchedule(rate, 0.0, 1.0)
    elif cell.annealing == "block":
        blocks = len(cell.order or (0,)) * cell.cycles
        arguments["learning_rate"] = LinearPerBlock(rate, blocks)
    return arguments


def _policy_preset(architecture: Architecture) -> dict[str, Any]:
    """Give the preset's options of the policy, without those that only our policies take."""
    policy, preset = policy_of(architecture.policy), dict(MINATAR_PPO["policy_kwargs"])
    if not issubclass(policy, MoEPolicy):
        # SB3's extractors have no encoder to choose: they flatten MinAtar's observations as ours.
        del preset["features_extractor_kwargs"]
        # Observations have the task id beside them: MlpPolicy sees them as MultiInputPolicy does.
        if _default_extractor(policy) is FlattenExtractor:
            preset["features_extractor_class"] = CombinedExtractor
    return preset


def _default_extractor(policy: type[ActorCriticPolicy]) -> Any:
    parameter = signature(policy).parameters.get("features_extractor_class")
    return None if parameter is None else parameter.default


def described(value: Any) -> Any:
    """Turn arguments into plain values for a file: classes and functions by their names."""
    if isinstance(value, Mapping):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{type(value).__name__}({described(vars(value))})" if vars(value) else repr(value)
