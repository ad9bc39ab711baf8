"""Gymnasium's vector environment, which keeps no environment open that it can't use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv

from sb3_moe_envs.closing import close_all, close_each, closed_on_error


class AllOrNone(SyncVectorEnv):
    """A `SyncVectorEnv` that closes what it built if the rest can't be, or doesn't fit.

    :param env_fns: build the environments
    :param kwargs: as of `SyncVectorEnv`
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env[Any, Any]]], **kwargs: Any) -> None:
        built: list[gym.Env[Any, Any]] = []
        with closed_on_error(lambda: close_each(built)):
            for build in env_fns:
                built.append(build())  # noqa: PERF401  a comprehension would lose them
            super().__init__([functools.partial(_given, env) for env in built], **kwargs)
        self.env_fns = env_fns

    def close_extras(self, **kwargs: Any) -> None:
        """Close each environment, also after one whose closing raises."""
        if hasattr(self, "envs"):
            close_all(env.close for env in self.envs)


def _given(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env
