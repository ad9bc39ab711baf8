"""Find optional methods of environments, through wrappers and in vector environments.

The methods return action masks, action names, and rewards of given goals, which SB3's HER needs.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import SyncVectorEnv, VectorActionWrapper, VectorWrapper

ACTION_MASKS = "action_masks"
MEANINGS = "get_action_meanings"
COMPUTE_REWARD = "compute_reward"
GOALS = ("achieved_goal", "desired_goal")
# These wrappers change actions, so the names and masks of the wrapped environment don't apply.
_OTHER_ACTIONS = (gym.ActionWrapper, VectorActionWrapper)


def method_of(env: Any, name: str, *, of_actions: bool = True) -> Callable[..., Any] | None:
    """Return a method of an environment, a vector environment or a wrapper around it, or None.

    A SyncVectorEnv that lacks the method has that of its first environment.

    :param of_actions: the method is about the actions that `env` takes, so a wrapper that changes
        them hides it
    """
    while not hasattr(env, name):
        if of_actions and isinstance(env, _OTHER_ACTIONS):
            return None
        if isinstance(env, SyncVectorEnv):
            env = env.envs[0]
        elif isinstance(env, gym.Wrapper | VectorWrapper):
            env = env.env
        else:
            return None
    return getattr(env, name)


def masks_of(env: Any) -> np.ndarray | None:
    """Return a vector environment's action masks, a row for each environment; None: it has none."""
    if isinstance(env, SyncVectorEnv) and not hasattr(env, ACTION_MASKS):
        methods = [method_of(each, ACTION_MASKS) for each in env.envs]
        return None if None in methods else np.stack([method() for method in methods if method])
    method = method_of(env, ACTION_MASKS)
    return method and np.asarray(method())


def meanings_of(env: Any) -> list[str] | None:
    """Return the names of an environment's or vector environment's actions, or None."""
    names = method_of(env, MEANINGS)
    return names and [*map(str, names())]


def has_goals(space: Space) -> bool:
    """Return whether observations hold goals, as SB3's checker requires beside `compute_reward`."""
    return isinstance(space, spaces.Dict) and set(GOALS) <= set(space.spaces)


def reward_of(env: Any, *goals_and_info: Any) -> Any:
    """Call `compute_reward` of an environment or vector environment, or of the first one in it.

    :return: what it returns; None if there is no such method
    """
    method = method_of(env, COMPUTE_REWARD, of_actions=False)
    return method and method(*goals_and_info)
