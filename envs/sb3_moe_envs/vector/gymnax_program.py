"""The compiled reset and step of a MinAtar game, shared by all vector environments of it."""

import functools
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from sb3_moe_envs.checks import whole

# Number of precomputed starts: each number of no-ops occurs with many different random keys.
NUM_STARTS = 1024
# Up to this number of environments, a step takes about as long as with one.
FEW = 32


class Program:
    """The compiled reset and step of one game, for any number of parallel environments.

    gymnax's own ``step`` resets every environment at each step and discards nearly all of these
    resets. The step here computes resets only if an episode has ended, and also returns the last
    observations.

    No-ops are played only once, in many environments at a time, and the resulting states are kept.
    An episode begins with one of them, drawn with its environment's key, at the cost of a look-up.
    """

    #: applies a function to each array of gymnax's states
    map = staticmethod(jax.tree.map)

    def __init__(
        self,
        game: str,
        use_minimal_action_set: bool,
        params: tuple[tuple[str, Any], ...],
        no_op_max: int,
    ) -> None:
        self._env, defaults = gymnax.make(
            f"{game}-MinAtar", use_minimal_action_set=use_minimal_action_set
        )
        self._params = defaults.replace(**dict(params))
        self._no_op_max = whole("no_op_max", no_op_max, minimum=0)
        self._sizes: set[int] = set()
        self.action_space: Any = spaces.Discrete(len(self.actions))
        shape = self._env.observation_space(self._params).shape
        self.observation_space = spaces.Box(0, 1, shape, np.uint8)
        self._compiled_start = jax.jit(self._start)
        # With `donate_argnums`, a step may overwrite the keys and states that it is given.
        self._compiled_step = jax.jit(self._step, donate_argnums=(1, 2))

    def reset(self, keys: Any) -> tuple[Any, ...]:
        """Start all environments; return keys, states and observations."""
        return self._compiled_start(self._starts, keys)

    def step(self, keys: Any, states: Any, actions: Any) -> tuple[Any, ...]:
        """Step all environments, and start those anew whose episode ends.

        :return: keys, states, observations, last observations, rewards, terminated, truncated
        """
        return self._compiled_step(self._starts, keys, states, actions)

    @property
    def actions(self) -> list[int]:
        """Which of the six actions each action of the action space stands for."""
        return [int(action) for action in self._env.action_set]

    def size_for(self, num_envs: int) -> int:
        """Return for how many environments a new vector environment's step is compiled.

        If a step was compiled before for as many or a few more environments, it is used again:
        compiling takes longer than stepping a few more environments. This changes no results, since
        a row never depends on the number of rows.
        """
        larger = [size for size in self._sizes if num_envs <= size <= FEW]
        size = min(larger, default=num_envs)
        self._sizes.add(size)
        return size

    @functools.cached_property
    def _starts(self) -> Any:
        """States and observations after 0, 1, ... no-ops, in turn; None without no-ops."""
        return jax.jit(self._play_no_ops)() if self._no_op_max else None

    def _play_no_ops(self) -> tuple[Any, Any]:
        """Play no-ops in many environments; if they end an episode, they go on in the next one."""
        rows = jnp.arange(NUM_STARTS)
        keys = jnp.stack([rows * 0, rows], axis=1).astype(jnp.uint32)
        num_no_ops = rows % (self._no_op_max + 1)
        actions = jnp.zeros(NUM_STARTS, jnp.int32)

        def no_op(count: Any, playing: Any) -> Any:
            keys, states, _ = playing
            keys, states, observations = self._step(None, keys, states, actions)[:3]
            # No-ops don't count for an episode's time limit.
            stepped = keys, states.replace(time=jnp.zeros_like(states.time)), observations
            return _select(count < num_no_ops, stepped, playing)

        started = self._start(None, keys)
        _, states, observations = jax.lax.fori_loop(0, self._no_op_max, no_op, started)
        return states, observations

    def _start(self, starts: Any, keys: Any) -> tuple[Any, Any, Any]:
        keys, reset_keys = _split(keys)
        if starts is not None:
            drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, NUM_STARTS))(reset_keys)
            states, observations = jax.tree.map(lambda leaf: leaf[drawn], starts)
            return keys, states, observations
        observations, states = jax.vmap(self._env.reset_env, (0, None))(reset_keys, self._params)
        # jax takes Python numbers in a state for "weakly" typed: it would compile again for a state
        # that was saved and loaded, whose numbers are arrays.
        states = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), states)
        return keys, states, observations.astype(np.uint8)

    def _step(self, starts: Any, keys: Any, states: Any, actions: Any) -> tuple[Any, ...]:
        keys, step_keys = _split(keys)
        last, stepped, rewards, terminated, truncated = jax.vmap(self._step_one)(
            step_keys, states, actions
        )
        states = jax.tree.map(
            lambda new, old: jax.lax.convert_element_type(new, old.dtype), stepped, states
        )
        done = terminated | truncated
        keys, states, observations = jax.lax.cond(
            done.any(),
            lambda *current: _select(done, self._start(starts, keys), current),
            lambda *current: current,
            *(keys, states, last),
        )
        return keys, states, observations, last, rewards, terminated, truncated

    def _step_one(self, key: Any, state: Any, action: Any) -> tuple[Any, ...]:
        observation, state, reward, terminated, _ = self._env.step_env(
            key, state, action, self._params
        )
        truncated = self._env.is_truncated(state, self._params)
        return (
            observation.astype(np.uint8),
            state,
            reward,
            terminated.astype(bool),
            truncated.astype(bool),
        )


#: Returns the program of an environment, which all its vector environments share.
compiled = functools.lru_cache(maxsize=64)(Program)


def _split(keys: Any) -> tuple[Any, Any]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def _select(mask: Any, new: Any, old: Any) -> Any:
    """Take the rows of a mask from new arrays, and the others from old ones."""

    def select(new: Any, old: Any) -> Any:
        shape = mask.shape + (1,) * (new.ndim - 1)
        return jnp.where(mask.reshape(shape), new, old)

    return jax.tree.map(select, new, old)
