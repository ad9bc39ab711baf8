"""Methods that environments may have, wrapped or many at a time: action masks, actions' names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv, VectorActionWrapper, VectorWrapper

ACTION_MASKS, MEANINGS = "action_masks", "get_action_meanings"
# Behind these wrappers, names and masks are those of other actions.
_OTHER_ACTIONS = (gym.ActionWrapper, VectorActionWrapper)


def method_of(env: Any, name: str, *, of_actions: bool = True) -> Callable[..., Any] | None:
    """Return a method of an environment or vector environment, or of a wrapper; None: it has none.

    :param of_actions: the method is about the actions that `env` takes, so a wrapper that changes
        them hides it
    """
    while not hasattr(env, name):
        is_wrapper = isinstance(env, gym.Wrapper | VectorWrapper)
        if not is_wrapper or (of_actions and isinstance(env, _OTHER_ACTIONS)):
            return None
        env = env.env
    method: Callable[..., Any] = getattr(env, name)
    return method


def methods_of_all(env: Any, name: str) -> Callable[[], list[Any]] | None:
    """Return what calls a method of each environment of a vector environment; None: they have none.

    A vector environment that keeps its environments elsewhere may have a method of this name.
    """
    while isinstance(env, VectorWrapper):
        if isinstance(env, _OTHER_ACTIONS):
            return None
        env = env.env
    if isinstance(env, SyncVectorEnv):
        methods = [method_of(each, name) for each in env.envs]
        return None if None in methods else lambda: [method() for method in methods if method]
    if hasattr(env, "methods_of_all"):
        found: Callable[[], list[Any]] | None = env.methods_of_all(name)
        return found
    # A worker process of Gymnasium's shuts down if it is asked for what it doesn't have.
    if hasattr(env, "call") and all(env.call("has_wrapper_attr", name)):
        return lambda: list(env.call(name))
    return None


def meanings_of(env: Any) -> list[str] | None:
    """Return the names of an environment's or vector environment's actions; None: it has none."""
    names = method_of(env, MEANINGS)
    if names is not None:
        return [*map(str, names())]
    of_all = methods_of_all(env, MEANINGS)
    return None if of_all is None else [*map(str, of_all()[0])]


def meanings_by_task(envs: Iterable[Any]) -> dict[int, list[str]]:
    """Return the names of each task's actions, by task, where there are any."""
    return {task: names for task, env in enumerate(envs) if (names := meanings_of(env))}
