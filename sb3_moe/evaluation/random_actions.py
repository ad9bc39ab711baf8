"""What a random policy does in every copy of an environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space
from stable_baselines3.common.vec_env import VecEnv


def random_actions(env: VecEnv, *, masked: bool = False) -> npt.NDArray[Any]:
    """Draw an action for each of B copies, uniformly and from the action space's generator.

    :param masked: leave out what the environment's ``action_masks`` forbid, as a policy that takes
        masks does
    :return: (B, *shape of an action)
    """
    space = env.action_space
    if not masked:
        return np.array([space.sample() for _ in range(env.num_envs)])
    return np.array([_allowed(space, row) for row in env.env_method("action_masks")])


def _allowed(space: Space[Any], mask: npt.ArrayLike) -> npt.NDArray[Any]:
    """Draw one of the actions that a mask allows; of all where it allows none, as policies do.

    :param space: of which sb3-contrib's masks can be
    :param mask: (choices of every entry, one entry's behind another's)
    """
    from sb3_moe_envs.spaces.actions import choices

    sizes = choices(space)
    entries = np.split(np.asarray(mask, dtype=bool).ravel(), np.cumsum(sizes)[:-1])
    drawn = [
        space.np_random.choice(np.flatnonzero(entry if entry.any() else ~entry))
        for entry in entries
    ]
    return np.array(drawn, dtype=space.dtype).reshape(space.shape or ())
