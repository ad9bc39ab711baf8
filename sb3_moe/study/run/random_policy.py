"""How well a random policy plays: the level that every report draws in."""

from __future__ import annotations

import sys
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

# As many as evaluations have, so that a game is compiled once for both.
COPIES = MAX_COPIES


def random_returns(
    games: Sequence[str],
    episodes: int = 64,
    seed: int = 0,
    *,
    algorithm: str = "PPO",
    **world: Any,
) -> dict[str, npt.NDArray[np.float64]]:
    """Play each game with actions drawn uniformly, in the same spaces as the agents.

    Every copy of the environment plays the same number of episodes: taking those that end first
    would favour short ones.

    :param games: by their short names or ids
    :param episodes: of each game, at least 1; rounded up to a multiple of the copies
    :param seed: of the environments and the actions
    :param algorithm: of the agents; where it masks actions, none that are forbidden are drawn
    :param world: ``tasks``, ``env`` and ``no_op_max``, as of
        :func:`~sb3_moe.study.spec.tasks.make_env`
    :return: the returns of each game's episodes
    :raises ValueError: if there are none to be played, or one takes more steps than any suite's
    """
    if episodes < 1:
        raise ValueError(f"`episodes` must be at least 1, got {episodes}")
    from sb3_moe_envs.schedules import Cycle

    env = make_env(games, COPIES, seed, Cycle(1, order=games[:1]), **world)
    try:
        masked = takes_masks(algorithm_class(algorithm), env)
        return {game: _play(env, game, _quota(episodes), seed, masked) for game in games}
    finally:
        env.close()


def read_returns(path: Path, games: Sequence[str], episodes: int) -> dict[str, list[float]]:
    """Read the returns that :func:`random_returns` gave.

    :param path: of a JSON file
    :raises ValueError: if it can't be read, is of other games or another number of episodes, or
        holds what is no number
    """
    returns = read_json(path)
    if list(returns) != list(games):
        raise ValueError(f"{path.name} must be of {', '.join(games)}, got {', '.join(returns)}")
    expected = _quota(episodes) * COPIES
    for game, values in returns.items():
        found = len(values) if isinstance(values, list) else values
        if found != expected:
            raise ValueError(
                f"{path.name} must hold {expected} episodes of {game}, as `random_episodes` says, "
                f"got {found}"
            )
        for value in values:
            if not _is_finite(value):
                raise ValueError(
                    f"{path.name} must hold finite numbers, got {value!r} among those of {game}"
                )
    return returns


def _is_finite(value: Any) -> bool:
    """Say whether a value is a number that a mean can be taken of; NaN is below nothing."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _quota(episodes: int) -> int:
    """Give the episodes that each copy plays."""
    return -(-episodes // COPIES)


def _play(env: VecEnv, game: str, quota: int, seed: int, masked: bool) -> npt.NDArray[np.float64]:
    """Play one of the games only, from the same seed as the others."""
    env.env_method("set_task", game)
    env.seed(seed)
    env.action_space.seed(seed)
    env.reset()
    returns: list[list[float]] = [[] for _ in range(COPIES)]
    running = np.zeros(COPIES, dtype=np.int64)  # steps without an end
    while min(map(len, returns)) < quota:
        _, _, dones, infos = env.step(random_actions(env, masked=masked))
        for mine, info in zip(returns, infos, strict=True):
            if "episode" in info and not is_lost_life(info) and len(mine) < quota:
                mine.append(game_return(info))
        running = np.where(dones, 0, running + 1)
        if running.max() >= LONGEST:
            refuse_endless(game, LONGEST)
    return np.array(returns).ravel()
