"""What a task calls its choices, as ALE's `get_action_meanings` says it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

METHOD = "get_action_meanings"


def meanings_of(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> list[str] | None:
    """Return the names of an environment's choices; None where it has none to give.

    :param env: an environment, or a vector environment, whose copies have the same
    """
    base = env.unwrapped
    if isinstance(base, SyncVectorEnv):
        return meanings_of(base.envs[0])
    if isinstance(base, AsyncVectorEnv):
        # A worker process that is asked for what it doesn't have shuts down.
        named = all(base.call("has_wrapper_attr", METHOD))
        return [*map(str, base.call(METHOD)[0])] if named else None
    if isinstance(env, gym.Env) and env.has_wrapper_attr(METHOD):
        return [*map(str, env.get_wrapper_attr(METHOD)())]
    return [*map(str, getattr(base, METHOD)())] if hasattr(base, METHOD) else None


def named(found: Iterable[list[str] | None]) -> dict[int, list[str]]:
    """Return the names of each task's choices, by task, where there are any.

    :param found: of each task
    """
    return {task: names for task, names in enumerate(found) if names}
