"""Attributes and methods of a vector environment's members, or of the vector environment itself."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped

# SB3's HER asks the first environment for the rewards of any number of steps, of any environment.
_OF_ANY = "compute_reward"
# What is the same for all environments, though it may be as long as there are environments.
_OF_ALL = (_OF_ANY, "get_action_meanings")


class VectorMembers:
    """Reach the environments of a vector environment one by one, where it keeps them apart.

    A SyncVectorEnv's environments are reached singly, an AsyncVectorEnv's all at once; any other
    vector environment is one object that answers for all of its copies.

    :param env: the vector environment, wrapped or not
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self._env = env
        self._base = env.unwrapped
        self._envs = self._base.envs if isinstance(self._base, SyncVectorEnv) else None

    def get(self, name: str, chosen: Sequence[int]) -> list[Any]:
        """Return an attribute of each of the chosen environments."""
        if self._envs is not None:
            return [self._envs[i].get_wrapper_attr(name) for i in chosen]
        if isinstance(self._base, AsyncVectorEnv):
            self._require_in_workers(name)
            values = self._base.get_attr(name)
            return [values[i] for i in chosen]
        return [self.of_all(name)] * len(chosen)

    def has(self, name: str) -> bool:
        """Say whether each environment has an attribute."""
        if isinstance(self._base, AsyncVectorEnv):
            return all(self._base.call("has_wrapper_attr", name))
        try:
            self.get(name, [0])
        except AttributeError:
            return False
        return True

    def set(self, name: str, value: Any, chosen: Sequence[int]) -> None:
        """Set an attribute of each of the chosen environments.

        :raises AttributeError: if they play our tasks and have no such attribute, so that nothing
            that plays would be reached
        """
        if self.task_names() is not None and not self.has(name):
            raise AttributeError(
                f"`set_attr` reaches no task: {self._env} has no attribute {name!r}; give tasks "
                f"their arguments where the world is built, as in ('CartPole-v1', {{...}})"
            )
        if self._envs is not None:
            for i in chosen:
                self._envs[i].set_wrapper_attr(name, value)
            return
        self._require_all("set_attr", chosen)
        if isinstance(self._base, AsyncVectorEnv):
            self._base.set_attr(name, [value] * self._env.num_envs)
        else:
            setattr(self._base, name, value)

    def call(self, name: str, chosen: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of each of the chosen environments.

        One that answers for all is called once, with ``indices`` if it takes them; a result with a
        row for each environment is dealt out.
        """
        if self._envs is not None:
            return [self._envs[i].get_wrapper_attr(name)(*args, **kwargs) for i in chosen]
        if isinstance(self._base, AsyncVectorEnv):
            if name != _OF_ANY:
                self._require_all(name, chosen)
            self._require_in_workers(name)
            results = self._base.call(name, *args, **kwargs)
            return [results[i] for i in chosen]
        method = self.of_all(name)
        if name in _OF_ALL:
            return [method(*args, **kwargs)] * len(chosen)
        if not self._is_all(chosen) and "indices" in inspect.signature(method).parameters:
            kwargs["indices"] = list(chosen)
        elif args or kwargs:
            self._require_all(name, chosen)
        return self._deal(method(*args, **kwargs), chosen)

    def are_wrapped(self, wrapper_class: Any, chosen: Sequence[int]) -> list[bool]:
        """Say of each of the chosen environments whether it is in such a wrapper."""
        if self._envs is None:
            return [False] * len(chosen)
        return [is_wrapped(self._envs[i], wrapper_class) for i in chosen]

    def of_all(self, name: str) -> Any:
        """Return an attribute of the vector environment, or of the nearest wrapper that has it."""
        layer: VectorEnv[Any, Any, Any] = self._env
        while isinstance(layer, VectorWrapper) and not hasattr(layer, name):
            layer = layer.env
        return getattr(layer, name)

    def task_names(self) -> Sequence[str] | None:
        """Return the tasks' names, if there are any."""
        try:
            names: Sequence[str] = self.get("task_names", [0])[0]
        except AttributeError:
            return None
        return names

    def _require_in_workers(self, name: str) -> None:
        # A worker process that is asked for what it doesn't have shuts down.
        if not self.has(name):
            raise AttributeError(f"the environments of {self._env} have no attribute {name!r}")

    def _is_all(self, chosen: Sequence[int]) -> bool:
        return list(chosen) == list(range(self._env.num_envs))

    def _require_all(self, what: str, chosen: Sequence[int]) -> None:
        if not self._is_all(chosen):
            raise ValueError(
                f"`indices` of {what} must be None: the environments of {self._env} can only be "
                f"reached all at once, got {list(chosen)}"
            )

    def _deal(self, result: Any, chosen: Sequence[int]) -> list[Any]:
        if isinstance(result, (np.ndarray, tuple, list)) and len(result) == self._env.num_envs:
            return [result[i] for i in chosen]
        return [result] * len(chosen)
