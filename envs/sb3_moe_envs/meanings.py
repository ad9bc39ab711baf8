"""What a task calls its choices, as ALE's `get_action_meanings` says it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
from gymnasium.vector import (
    AsyncVectorEnv,
    SyncVectorEnv,
    VectorActionWrapper,
    VectorEnv,
    VectorWrapper,
)

MEANINGS = "get_action_meanings"
#: wrappers behind which names and masks are those of other actions
OTHER_ACTIONS = (gym.ActionWrapper, VectorActionWrapper)


def meanings_of(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> list[str] | None:
    """Return the names of an environment's choices; None where it has none to give.

    A wrapper that gives the environment other actions than it takes has no names unless its own.

    :param env: an environment, or a vector environment, whose copies have the same
    """
    layer: Any = env
    while isinstance(layer, gym.Wrapper | VectorWrapper) and MEANINGS not in dir(type(layer)):
        if isinstance(layer, OTHER_ACTIONS):
            return None
        layer = layer.env
    if isinstance(layer, SyncVectorEnv):
        return meanings_of(layer.envs[0])
    if isinstance(layer, AsyncVectorEnv):
        # A worker process that is asked for what it doesn't have shuts down.
        named = all(layer.call("has_wrapper_attr", MEANINGS))
        return _texts(layer.call(MEANINGS)[0]) if named else None
    return _texts(getattr(layer, MEANINGS)()) if hasattr(layer, MEANINGS) else None


def in_coordinates(
    env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any], actions: Iterable[int]
) -> Callable[[], list[str]]:
    """Return what names choices that stand for others of an environment's.

    :param env: the environment
    :param actions: the environment's action for each
    :raises AttributeError: if it doesn't name its own
    """
    names = meanings_of(env)
    if names is None:
        raise AttributeError(f"{env} has no method `{MEANINGS}`")
    return lambda: [names[action] for action in actions]


def named(found: Iterable[list[str] | None]) -> dict[int, list[str]]:
    """Return the names of each task's choices, by task, where there are any.

    :param found: of each task
    """
    return {task: names for task, names in enumerate(found) if names}


def _texts(names: Iterable[Any]) -> list[str]:
    return [*map(str, names)]
