"""How well a random policy plays: the level that every report draws in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.saving.files import read_json
from sb3_moe.study.spec.algorithms import algorithm_class
from sb3_moe.study.spec.tasks import make_env
from sb3_moe.vec_env.evaluating import (
    LONGEST,
    game_return,
    is_lost_life,
    random_actions,
    refuse_endless,
    takes_masks,
)
from sb3_moe.vec_env.make import MAX_COPIES

# As many parallel environments as evaluations have, so that a game is compiled once for both.
N_ENVS = MAX_COPIES


def random_returns(
    games: Sequence[str],
    episodes: int = 64,
    seed: int = 0,
    *,
    algorithm: str = "PPO",
    **world: Any,
) -> dict[str, npt.NDArray[np.float64]]:
    """Play each task with actions drawn uniformly, in the same spaces as the agents.

    Every parallel environment plays the same number of episodes: taking those that end first would
    favor short ones.

    :param games: by their short names or ids
    :param episodes: of each task; rounded up to a multiple of the parallel environments
    :param seed: of the environments and the actions
    :param algorithm: of the agents; where it masks actions, none that are forbidden are drawn
    :param world: ``tasks``, ``env`` and ``no_op_max``, as of
        :func:`~sb3_moe.study.spec.tasks.make_env`
    :return: the returns of each task's episodes
    :raises ValueError: if an episode takes more steps than any suite's
    """
    from sb3_moe_envs.schedules import Cycle

    env = make_env(games, N_ENVS, seed, Cycle(1, order=games[:1]), **world)
    try:
        masked = takes_masks(algorithm_class(algorithm), env)
        return {game: _play(env, game, _quota(episodes), seed, masked) for game in games}
    finally:
        env.close()


def read_returns(path: Path, games: Sequence[str], episodes: int) -> dict[str, list[float]]:
    """Read the returns that :func:`random_returns` gave.

    :param path: of a JSON file
    :raises ValueError: if it can't be read, or is of other tasks or another number of episodes
    """
    returns = read_json(path)
    if list(returns) != list(games):
        raise ValueError(f"{path.name} must be of {', '.join(games)}, got {', '.join(returns)}")
    expected = _quota(episodes) * N_ENVS
    for game, values in returns.items():
        numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
        if not len(values) == len(numbers) == expected:
            raise ValueError(
                f"{path.name} must hold the finite returns of {expected} episodes of {game}, as "
                f"`random_episodes` says, got {len(numbers)} of {len(values)}"
            )
    return returns


def _quota(episodes: int) -> int:
    """Give the episodes that each parallel environment plays."""
    return -(-episodes // N_ENVS)


def _play(env: VecEnv, game: str, quota: int, seed: int, masked: bool) -> npt.NDArray[np.float64]:
    """Play one of the tasks only, from the same seed as the others."""
    env.env_method("set_task", game)
    env.seed(seed)
    env.action_space.seed(seed)
    env.reset()
    returns: list[list[float]] = [[] for _ in range(N_ENVS)]
    running = np.zeros(N_ENVS, dtype=np.int64)  # steps without an end
    while min(map(len, returns)) < quota:
        _, _, dones, infos = env.step(random_actions(env, masked=masked))
        for mine, info in zip(returns, infos, strict=True):
            if "episode" in info and not is_lost_life(info) and len(mine) < quota:
                mine.append(game_return(info))
        running = np.where(dones, 0, running + 1)
        if running.max() >= LONGEST:
            refuse_endless(game, LONGEST)
    return np.array(returns).ravel()
