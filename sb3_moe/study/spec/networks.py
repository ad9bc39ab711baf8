"""Whether the networks of a study can be built, found out before any cell starts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.plasticity import policy_activations
from sb3_moe.study.run.learner import ppo_arguments
from sb3_moe.study.spec.architectures import policy_of
from sb3_moe.study.spec.config import CellConfig
from sb3_moe.study.spec.games import make_env

# PPO wants more than one sample to a rollout, whatever `n_steps` is.
COPIES = 2


def check_networks(cells: Sequence[CellConfig]) -> None:
    """Build PPO once with each architecture, in the spaces of all games, and let it act once.

    :param cells: of one study, one at least
    :raises ValueError: naming the architecture, and why it can't be built
    """
    from sb3_moe_envs.schedules import Cycle

    architectures = {cell.architecture.name: cell for cell in cells}
    games = cells[0].games
    env = make_env(games, COPIES, 0, Cycle(1, order=games[:1]))
    try:
        for name, cell in architectures.items():
            try:
                _build(cell, env)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"architecture {name!r} can't be built: {reason}") from error
    finally:
        env.close()


def _build(cell: CellConfig, env: VecEnv) -> None:
    with warnings.catch_warnings():
        # That a batch is larger than a rollout is so with two copies only.
        warnings.simplefilter("ignore")
        policy = policy_of(cell.architecture.policy)
        model = PPO(policy, env, device="cpu", **ppo_arguments(cell))
    # Some policies can be built in spaces that they can't see.
    model.policy.set_training_mode(False)
    obs: Any = model.observation_space.sample()
    with th.no_grad():
        model.policy(model.policy.obs_to_tensor(obs)[0])
    policy_activations(model.policy, obs)  # which every run measures from its first step on
