"""Conflicting tasks: one environment in several coordinates, so no rule is right in all of them.

Entries of observations are permuted and negated, actions are exchanged. An agent that plays such
tasks side by side must distinguish them: what is right in one is wrong in another. Each alone is
exactly as hard as the environment itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TimeLimit

from sb3_moe_envs.methods import ACTION_MASKS
from sb3_moe_envs.minatar import MinAtarEnv, MinAtarVectorEnv
from sb3_moe_envs.numbers import whole
from sb3_moe_envs.tasks import Task
from sb3_moe_envs.vector.batched import BatchedVectorEnv, View, ViewEnv, ViewVectorEnv
from sb3_moe_envs.vector.cartpole import MAX_STEPS, CartPoleVectorEnv

# An exchange of left and right makes these of MinAtar's actions.
_MIRRORED = (0, 3, 2, 1, 4, 5)
# A permutation, signs, and whether actions are exchanged.
_Drawn = tuple[tuple[int, ...], tuple[int, ...], bool]


class Coordinates(View):
    """What an observation and an action of an environment are called elsewhere.

    :param observation_space: of the environment, a Box; its last axis is permuted
    :param action_space: of the environment, Discrete
    :param permutation: which entry of the environment's is shown at each place; None: as it is
    :param signs: 1 or -1, by which each shown entry is multiplied; None: 1 everywhere
    :param actions: which action of the environment's each action is; None: as it is
    :raises TypeError: if the spaces are of another kind
    :raises ValueError: if one is no permutation, or a sign is neither 1 nor -1, or integers that
        can't be negated would be
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        permutation: Sequence[int] | None = None,
        signs: Sequence[int] | None = None,
        actions: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(observation_space, spaces.Box) or not observation_space.shape:
            raise TypeError(f"observations must be a Box with an axis, got {observation_space}")
        if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
            raise TypeError(f"actions must be Discrete from 0 on, got {action_space}")
        self._order = _permutation("permutation", permutation, observation_space.shape[-1])
        self._actions = _permutation("actions", actions, int(action_space.n))
        self._signs = _signs(signs, observation_space)
        ends = [self.observation(end) for end in (observation_space.low, observation_space.high)]
        low, high = np.minimum(*ends), np.maximum(*ends)
        self.observation_space = spaces.Box(low, high, dtype=observation_space.dtype)  # type: ignore[arg-type]

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Show observations, (..., entries), in these coordinates."""
        shown: np.ndarray = observation[..., self._order]
        return shown if self._signs is None else shown * self._signs

    def action(self, action: Any) -> Any:
        """Return the environment's action for one, or an array of them, of these coordinates.

        :raises ValueError: if one is below 0: it would count from the end
        """
        if np.any(np.less(action, 0)):
            raise ValueError(f"actions must be of 0 to {len(self._actions) - 1}, got {action}")
        # An index would take a bool for a mask.
        return self._actions.take(action)

    def info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Show the masks of actions in an info in these coordinates."""
        if "action_mask" not in info:
            return info
        return {**info, "action_mask": self.masks(info["action_mask"])}

    def masks(self, masks: Any) -> np.ndarray:
        """Show masks of actions, (..., actions), in these coordinates."""
        shown: np.ndarray = np.asarray(masks)[..., self._actions]
        return shown

    def result_of(self, method: Callable[[], Any], name: str) -> Any:
        """Return masks or names of actions in these coordinates."""
        if name == ACTION_MASKS:
            return self.masks(method())
        names = method()
        return [names[action] for action in self._actions.tolist()]


class Conflicting(ViewEnv, RecordConstructorArgs):
    """Show an environment in other :class:`Coordinates`.

    :param env: with Box observations and Discrete actions
    :param coordinates: `permutation`, `signs` and `actions`, as of :class:`Coordinates`
    """

    def __init__(self, env: gym.Env[np.ndarray, Any], **coordinates: Any) -> None:
        RecordConstructorArgs.__init__(self, **coordinates)
        own = env.observation_space, env.action_space
        ViewEnv.__init__(self, env, Coordinates(*own, **coordinates))


def _vector(env: BatchedVectorEnv, coordinates: dict[str, Any]) -> ViewVectorEnv:
    own = env.single_observation_space, env.single_action_space
    return ViewVectorEnv(env, Coordinates(*own, **coordinates))


def _permutation(name: str, given: Sequence[int] | None, length: int) -> np.ndarray:
    order = list(range(length)) if given is None else list(given)
    if sorted(order) != list(range(length)):
        raise ValueError(f"`{name}` must have each of 0 to {length - 1} once, got {given!r}")
    return np.array(order, dtype=np.int64)


def _signs(given: Sequence[int] | None, space: spaces.Box) -> np.ndarray | None:
    if given is None:
        return None
    length, dtype = space.shape[-1], np.dtype(space.dtype)
    if len(given) != length or any(sign not in (1, -1) for sign in given):
        raise ValueError(f"`signs` must be {length} of 1 and -1, got {given!r}")
    # The least of the signed integers has no opposite.
    if dtype.kind in "bu" or (dtype.kind == "i" and (space.low == np.iinfo(dtype).min).any()):
        raise ValueError(f"`signs` must be None for observations of {dtype}, got {given!r}")
    return np.array(given, dtype=dtype)


def cartpole(render_mode: str | None = None, **coordinates: Any) -> gym.Env[Any, Any]:
    """Build `CartPole-v1` in other coordinates.

    :param coordinates: as of :class:`Conflicting`
    """
    return Conflicting(TimeLimit(CartPoleEnv(render_mode=render_mode), MAX_STEPS), **coordinates)


def cartpoles(
    num_envs: int = 1, *, render_mode: str | None = None, **coordinates: Any
) -> ViewVectorEnv:
    """Build environments of `CartPole-v1` in other coordinates that step together."""
    return _vector(CartPoleVectorEnv(num_envs, render_mode=render_mode), coordinates)


def breakout(render_mode: str | None = None, **coordinates: Any) -> gym.Env[Any, Any]:
    """Build MinAtar's Breakout in other coordinates.

    :param coordinates: as of :class:`Conflicting`
    """
    return Conflicting(MinAtarEnv("Breakout", render_mode), **coordinates)


def breakouts(
    num_envs: int = 1, *, render_mode: str | None = None, **coordinates: Any
) -> ViewVectorEnv:
    """Build Breakouts of MinAtar in other coordinates that step together."""
    vector = MinAtarVectorEnv("Breakout", num_envs, render_mode=render_mode)
    return _vector(vector, coordinates)


def conflicting_cartpoles(num_tasks: int, seed: int = 0) -> list[Task]:
    """Draw CartPoles of which no two have the same best policy.

    The first is the plain one, and in every second actions are exchanged. Fewer tasks of one seed
    are the first of more. CartPole has a mirror: to negate all entries and exchange the actions
    changes nothing, so that two tasks differ in more than that.

    :param num_tasks: at most 384
    :param seed: at least 0
    :raises ValueError: if there are not so many, or the seed is no such number
    """
    return _tasks("CartPole", num_tasks, seed, signed=True, exchanged=(1, 0), most=384)


def conflicting_breakouts(num_tasks: int, seed: int = 0) -> list[Task]:
    """Draw Breakouts with permuted channels, left and right exchanged in every second.

    The first is the plain one.

    :param num_tasks: at most 48; fewer of one seed are the first of more
    :param seed: at least 0
    :raises ValueError: if there are not so many, or the seed is no such number
    """
    return _tasks("Breakout", num_tasks, seed, signed=False, exchanged=_MIRRORED, most=48)


def _tasks(
    name: str, num_tasks: int, seed: int, *, signed: bool, exchanged: tuple[int, ...], most: int
) -> list[Task]:
    if whole("num_tasks", num_tasks) > most:
        raise ValueError(f"`num_tasks` must be at most {most}, got {num_tasks}")
    random = Random(whole("seed", seed, 0))
    plain: _Drawn = ((0, 1, 2, 3), (1, 1, 1, 1), False)
    found = {plain: plain}
    while len(found) < num_tasks:
        drawn = _draw(random, signed, flip=len(found) % 2 == 1)
        found.setdefault(_unmirrored(*drawn) if signed else drawn, drawn)
    env_id = f"sb3_moe_envs:SB3MoE/Conflicting{name}-v0"
    tasks = []
    for k, (permutation, signs, flip) in enumerate(found.values()):
        own: dict[str, Any] = {"permutation": permutation}
        own |= {"signs": signs} if signed else {}
        tasks.append(Task(f"{name}{k}", env_id, own | ({"actions": exchanged} if flip else {})))
    return tasks


def _draw(random: Random, signed: bool, flip: bool) -> _Drawn:
    # Python promises the numbers of `random()` for a seed, and no more than those.
    keys = [random.random() for _ in range(4)]
    permutation = tuple(sorted(range(4), key=keys.__getitem__))
    signs = tuple(-1 if signed and random.random() < 0.5 else 1 for _ in range(4))
    return permutation, signs, flip


def _unmirrored(permutation: tuple[int, ...], signs: tuple[int, ...], flip: bool) -> _Drawn:
    """Return the CartPole without exchanged actions that has the same best policy."""
    return permutation, tuple(-sign for sign in signs) if flip else signs, False
