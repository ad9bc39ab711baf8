"""The compiled reset and step of a gymnax environment, shared by every world that plays it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import gymnax_space_to_gym_space


class Program:
    """The compiled reset and step of one gymnax environment, for any number of copies.

    gymnax's own ``step`` starts every copy anew at each step and throws nearly all of that away;
    this one resets only where some copy is done, and hands the last observation over.
    """

    def __init__(self, name: str, use_minimal_action_set: bool, params: dict[str, Any]) -> None:
        self._env, self._params = _make(name, use_minimal_action_set, params)
        self.observation_space, self.action_space = self._spaces(name)
        self.dtype = self.observation_space.dtype
        if isinstance(self.observation_space, gym.spaces.Discrete):
            self.dtype = np.dtype(np.int32)  # jax has no int64 by default
        self.reset = jax.jit(self._reset)
        # A step overwrites the keys and states it is given.
        self.step = jax.jit(self._step, donate_argnums=(0, 1))

    def blank(self, num_envs: int) -> Any:
        """Return states of the right structure, shapes and types, all zero."""
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._shapes(num_envs))

    def leaves(self, states: Any) -> list[np.ndarray]:
        """Return the arrays of a state, as numpy."""
        return [np.array(leaf) for leaf in jax.tree.leaves(states)]

    def unflatten(self, leaves: Sequence[np.ndarray], num_envs: int) -> Any:
        """Put saved leaves back into the environment's own state."""
        shapes, structure = jax.tree.flatten(self._shapes(num_envs))
        expected = [(leaf.shape, str(leaf.dtype)) for leaf in shapes]
        got = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
        if got != expected:
            raise ValueError(f"`states` must hold arrays like {expected}, got {got}")
        return jax.tree.unflatten(structure, list(leaves))

    def _shapes(self, num_envs: int) -> Any:
        return jax.eval_shape(self._start, np.zeros((num_envs, 2), np.uint32))[1]

    def _spaces(self, name: str) -> tuple[gym.Space[Any], gym.Space[Any]]:
        observation_space = gymnax_space_to_gym_space(self._env.observation_space(self._params))
        if name.endswith("-MinAtar"):
            shape = observation_space.shape
            observation_space = gym.spaces.Box(0, 1, shape, np.uint8)
        return observation_space, gymnax_space_to_gym_space(self._env.action_space(self._params))

    def _start(self, keys: Any) -> tuple[Any, Any, Any]:
        keys, reset_keys = _split(keys)
        observations, states = jax.vmap(self._env.reset_env, (0, None))(reset_keys, self._params)
        # Python numbers in a state are "weakly" typed: a saved and loaded state would compile anew.
        states = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), states)
        return keys, states, observations.astype(self.dtype)

    def _reset(self, keys: Any, states: Any, observations: Any, mask: Any) -> tuple[Any, ...]:
        started, current = self._start(keys), (keys, states, observations)
        chosen: tuple[Any, ...] = jax.tree.map(functools.partial(_select, mask), started, current)
        return chosen

    def _step(self, keys: Any, states: Any, actions: Any) -> tuple[Any, ...]:
        keys, step_keys = _split(keys)
        last, stepped, rewards, terminated, truncated = jax.vmap(self._step_one)(
            step_keys, states, actions
        )
        states = jax.tree.map(
            lambda new, old: jax.lax.convert_element_type(new, old.dtype), stepped, states
        )
        done = terminated | truncated
        keys, states, observations = jax.lax.cond(
            done.any(), self._reset, lambda *unchanged: unchanged[:3], keys, states, last, done
        )
        return keys, states, observations, last, rewards, terminated, truncated

    def _step_one(self, key: Any, state: Any, action: Any) -> tuple[Any, ...]:
        observation, state, reward, terminated, _ = self._env.step_env(
            key, state, action, self._params
        )
        truncated = self._env.is_truncated(state, self._params)
        return (
            observation.astype(self.dtype),
            state,
            reward,
            terminated.astype(bool),
            truncated.astype(bool),
        )


@functools.lru_cache(maxsize=64)
def compiled(
    name: str, use_minimal_action_set: bool, params: tuple[tuple[str, Any], ...]
) -> Program:
    """Return the program of an environment; worlds of the same one share what is compiled."""
    return Program(name, use_minimal_action_set, dict(params))


def _make(name: str, use_minimal_action_set: bool, params: dict[str, Any]) -> tuple[Any, Any]:
    if name not in gymnax.registered_envs:
        raise ValueError(f"`name` must be one of {gymnax.registered_envs}, got {name!r}")
    minatar = name.endswith("-MinAtar")
    if use_minimal_action_set and not minatar:
        raise ValueError(f"`use_minimal_action_set` must be False except for MinAtar, got {name!r}")
    options = {"use_minimal_action_set": use_minimal_action_set} if minatar else {}
    env, defaults = gymnax.make(name, **options)
    unknown = sorted(set(params) - set(vars(defaults)))
    if unknown:
        raise ValueError(f"`params` must be among {sorted(vars(defaults))}, got {unknown}")
    return env, defaults.replace(**params)


def _split(keys: Any) -> tuple[Any, Any]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def _select(mask: Any, new: Any, old: Any) -> Any:
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)
