"""Environments of one task that step together in this process, and what can be asked of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper

from sb3_moe_envs.checks import Options
from sb3_moe_envs.conflicts import ConflictingVectorEnv
from sb3_moe_envs.snapshot import gives_state, own_state, restore, snapshot
from sb3_moe_envs.spaces.observations import row_of
from sb3_moe_envs.vector.batched import BatchedVectorEnv
from sb3_moe_envs.vector.in_turn import InTurnVectorEnv
from sb3_moe_envs.vector.infos import Info, Rows, unstack

Vector = VectorEnv[Any, Any, Any]


class About(NamedTuple):
    """What is to be known of a vector environment, wherever it is."""

    kind: str
    observation_space: Space[Any]
    action_space: Space[Any]
    render_fps: int


def about(env: Vector) -> About:
    """Describe a vector environment."""
    spaces = env.single_observation_space, env.single_action_space
    fps = env.metadata.get("render_fps", 30)
    return About(type(env.unwrapped).__name__, *spaces, fps)


class Group:
    """A vector environment of this process, of any kind.

    :param env: with SAME_STEP autoreset
    """

    def __init__(self, env: Vector) -> None:
        self.env: Any = env
        self.num_envs = env.num_envs
        #: whether its step begins and ends with a call each, so that others can step meanwhile
        self.begins = hasattr(env, "step_async")

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the vector environment, where it is."""
        return function(self.env, *args)

    def begin(self, actions: Any) -> None:
        """Begin a step, if it :attr:`begins`."""
        self.env.step_async(actions)

    def finish(self, actions: Any) -> Rows:
        """End the step that began, or step."""
        if isinstance(self.env, InTurnVectorEnv):
            return self.env.play(actions)
        return _rows_of(self.env, self.env.step_wait() if self.begins else self.env.step(actions))

    def close(self) -> None:
        """Close it."""
        self.env.close()


def _rows_of(env: Any, result: Any) -> Rows:
    obs, rewards, terminated, truncated, infos = result
    obs = _kept(env, obs)
    if not infos:
        return Rows(obs, rewards, terminated, truncated, {}, {})
    last = unstack(infos.get("final_info") or {}, env.num_envs)
    finals = {
        row: (_kept(env, row_of(infos["final_obs"], row)), last.get(row, {}))
        for row in np.flatnonzero(terminated | truncated).tolist()
    }
    return Rows(obs, rewards, terminated, truncated, unstack(infos, env.num_envs), finals)


def _kept(env: Vector, obs: Any) -> Any:
    """Return observations that no later step changes: somebody's own may always use one array."""
    base: Any = env.unwrapped
    gymnasiums = isinstance(base, SyncVectorEnv | AsyncVectorEnv) and base.copy
    return obs if gymnasiums or isinstance(base, BatchedVectorEnv) else copy.deepcopy(obs)


def images_of(env: Vector) -> Any:
    """Return an image of each environment, or None."""
    return env.render()


def start(env: Vector, seed: int | None, options: Options) -> tuple[Any, dict[int, Info]]:
    """Start an episode in every environment; return observations, and infos by row."""
    obs, infos = env.reset(seed=seed, options=options)
    return _kept(env, obs), unstack(infos, env.num_envs)


def states_of(env: Any) -> list[Any] | None:
    """Return a state for each environment, or None if there is one that has none to give.

    A vector environment that gives its own has the same for each.
    """
    base: Any = env.unwrapped
    while isinstance(env, VectorWrapper):
        if not isinstance(env, ConflictingVectorEnv):
            return None  # it may have a state of its own, such as running statistics
        env = env.env
    if gives_state(base):
        states = [own_state(base)] * base.num_envs
    else:
        states = [*map(snapshot, base.envs)] if isinstance(base, SyncVectorEnv) else [None]
    return None if any(state is None for state in states) else states


def restore_states(env: Any, states: Sequence[Any]) -> None:
    """Bring each environment into a state that :func:`states_of` returned."""
    base = env.unwrapped
    if gives_state(base):
        base.load_state_dict(states[0])
    else:
        base.envs[:] = [restore(*each) for each in zip(base.envs, states, strict=True)]
