"""Find optional methods of environments, through wrappers and in vector environments.

The methods return action masks, action names, and rewards of given goals, which SB3's HER needs.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import SyncVectorEnv, VectorActionWrapper, VectorWrapper

ACTION_MASKS, MEANINGS = "action_masks", "get_action_meanings"
COMPUTE_REWARD = "compute_reward"
GOALS = ("achieved_goal", "desired_goal")
# These wrappers change actions, so the names and masks of the wrapped environment don't apply.
_OTHER_ACTIONS = (gym.ActionWrapper, VectorActionWrapper)


def method_of(env: Any, name: str, *, of_actions: bool = True) -> Callable[..., Any] | None:
    """Return a method of an environment, a vector environment or a wrapper around it, or None.

    :param of_actions: the method is about the actions that `env` takes, so a wrapper that changes
        them hides it
    """
    while not hasattr(env, name):
        is_wrapper = isinstance(env, gym.Wrapper | VectorWrapper)
        if not is_wrapper or (of_actions and isinstance(env, _OTHER_ACTIONS)):
            return None
        env = env.env
    return getattr(env, name)


def results_of_all(env: Any, name: str) -> list[Any] | None:
    """Call a method of each environment of a vector environment; None if any lacks the method.

    Vector environments other than SyncVectorEnv are asked by their `call`, if they have one.
    """
    while isinstance(env, VectorWrapper):
        if isinstance(env, _OTHER_ACTIONS):
            return None
        env = env.env
    if isinstance(env, SyncVectorEnv):
        methods = [method_of(each, name) for each in env.envs]
        return None if None in methods else [method() for method in methods if method]
    return list(env.call(name)) if _all_have(env, name) else None


def _all_have(env: Any, name: str) -> bool:
    # Gymnasium's worker processes shut down if they are asked for a method that they lack.
    return hasattr(env, "call") and all(env.call("has_wrapper_attr", name))


def masks_of(env: Any) -> np.ndarray | None:
    """Return a vector environment's action masks, a row for each environment; None: it has none."""
    method = method_of(env, ACTION_MASKS)
    own = method() if method else results_of_all(env, ACTION_MASKS)
    return None if own is None else np.asarray(own)


def meanings_of(env: Any) -> list[str] | None:
    """Return the names of an environment's or vector environment's actions, or None."""
    names = method_of(env, MEANINGS)
    if names is not None:
        return [*map(str, names())]
    of_all = results_of_all(env, MEANINGS)
    return None if of_all is None else [*map(str, of_all[0])]


def has_goals(space: Space[Any]) -> bool:
    """Return whether observations hold goals, as SB3's checker requires beside `compute_reward`."""
    return isinstance(space, spaces.Dict) and set(GOALS) <= set(space.spaces)


def reward_of(env: Any, *goals_and_info: Any) -> Any:
    """Call `compute_reward` of an environment or vector environment, or of the first one in it.

    :return: what it returns; None if there is no such method
    """
    method = method_of(env, COMPUTE_REWARD, of_actions=False)
    base: Any = env.unwrapped
    if method is None and isinstance(base, SyncVectorEnv):
        method = method_of(base.envs[0], COMPUTE_REWARD, of_actions=False)
    if method is None and _all_have(base, COMPUTE_REWARD):
        return base.call(COMPUTE_REWARD, *goals_and_info)[0]
    return None if method is None else method(*goals_and_info)
