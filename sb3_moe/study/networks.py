"""Whether the networks of a study can be built, found out before any cell starts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.study.architectures import policy_of
from sb3_moe.study.config import CellConfig
from sb3_moe.study.games import make_env
from sb3_moe.study.learner import ppo_arguments

# PPO wants more than one sample to a rollout, whatever `n_steps` is.
COPIES = 2


def check_networks(cells: Sequence[CellConfig]) -> None:
    """Build PPO once with each architecture, in the spaces of all games, and train nothing.

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
        PPO(policy_of(cell.architecture.policy), env, device="cpu", **ppo_arguments(cell))
