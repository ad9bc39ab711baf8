"""What an episode came to: its success at any step, and the score of a game of several lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# What the infos of this package's Atari games hold, whose episodes may be lives: others may call
# anything `score`.
OF_ATARI = "of_atari"


class Successes:
    """Follow which running episodes have succeeded: those in which any step said so.

    :param n_envs: number of environments
    """

    def __init__(self, n_envs: int) -> None:
        from sb3_moe_envs.checks import succeeded

        self._now = succeeded
        self._succeeded = np.full(n_envs, np.nan)

    def step(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Look at a step of every environment, before :meth:`end`."""
        for i, info in enumerate(infos):
            self._succeeded[i] = self._now(float(self._succeeded[i]), info)

    def end(self, index: int) -> float:
        """Return 1 if the episode that ends succeeded, 0 if not, NaN if it never said."""
        succeeded = float(self._succeeded[index])
        self._succeeded[index] = np.nan
        return succeeded


def success_rate(successes: npt.ArrayLike) -> float:
    """Return the share of episodes that succeeded.

    Some tasks speak only of what succeeded: a silent episode failed, where any other speaks.

    :param successes: of :meth:`Successes.end`, of any shape
    :return: NaN if no episode speaks, or there is none
    """
    told = np.asarray(successes, dtype=np.float64)
    return float(np.nan_to_num(told).mean()) if np.isfinite(told).any() else float("nan")


def is_lost_life(info: Mapping[str, Any]) -> bool:
    """Tell the end of a life from that of a game, which goes on with the next life.

    :param info: of an episode's last step; one that isn't of this package's Atari games ended the
        game, whatever it says of a ``score``
    """
    goes_on = bool(info.get(OF_ATARI)) and not info.get("game_over", True)
    return goes_on and not info.get("TimeLimit.truncated", False)


def game_return(info: Mapping[str, Any]) -> float:
    """Return what a game came to: an Atari game's own score, else the monitored return.

    :param info: of the game's last step
    """
    # Training rewards may be clipped, and of the last life only.
    return float(info["score"] if info.get(OF_ATARI) else monitored(info)["r"])


def monitored(info: Mapping[str, Any]) -> Mapping[str, float]:
    """Return what a monitor says of an episode.

    :param info: of the episode's last step
    :raises ValueError: if the environment isn't monitored
    """
    if "episode" not in info:
        raise ValueError("`eval_env` must be monitored: wrap it in SB3's VecMonitor")
    episode: Mapping[str, float] = info["episode"]
    return episode
