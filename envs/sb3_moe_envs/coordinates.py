"""The same world in other coordinates: entries permuted and negated, actions exchanged.

Whoever plays such worlds side by side must tell them apart: what is right in one is wrong in
another. Each alone is exactly as hard as the world itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from sb3_moe_envs.masks import has_masks, masks_of, masks_of_copies
from sb3_moe_envs.meanings import in_coordinates
from sb3_moe_envs.numbers import whole
from sb3_moe_envs.vector.shown import ShownWorld

#: where an info says which actions are allowed
MASK = "action_mask"


class Coordinates:
    """What an observation and an action of a world are called elsewhere.

    :param observation_space: of the world, a Box; its last axis is what is permuted
    :param action_space: of the world, Discrete
    :param permutation: which entry of the world's is shown at each place; None: as it is
    :param signs: 1 or -1, by which each shown entry is multiplied; None: 1 everywhere
    :param actions: which action of the world's each action is; None: as it is
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
        """Show observations of the world, (..., entries), in these coordinates."""
        shown: np.ndarray = observation[..., self._order]
        return shown if self._signs is None else shown * self._signs

    def action(self, action: Any) -> Any:
        """Give the world's action for one, or an array of them, of these coordinates.

        :raises ValueError: if one is below 0: it would count from the end
        """
        if np.any(np.less(action, 0)):
            raise ValueError(f"actions must be of 0 to {len(self._actions) - 1}, got {action}")
        # An index would take a bool for a mask.
        return self._actions.take(action)

    @property
    def actions(self) -> list[int]:
        """The world's action for each of these coordinates'."""
        return [int(action) for action in self._actions]

    def masks(self, masks: Any) -> np.ndarray:
        """Show the world's masks of actions, (..., actions), in these coordinates."""
        shown: np.ndarray = np.asarray(masks)[..., self._actions]
        return shown

    def info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Show the world's masks in these coordinates where an info holds them."""
        if MASK not in info:
            return info
        return {**info, MASK: self.masks(info[MASK])}


class Conflicting(gym.Wrapper[np.ndarray, Any, np.ndarray, Any], RecordConstructorArgs):
    """Show an environment in other :class:`Coordinates`.

    :param env: with Box observations and Discrete actions
    :param permutation: as of :class:`Coordinates`, like the next two
    """

    def __init__(
        self,
        env: gym.Env[np.ndarray, Any],
        *,
        permutation: Sequence[int] | None = None,
        signs: Sequence[int] | None = None,
        actions: Sequence[int] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, permutation=permutation, signs=signs, actions=actions)
        gym.Wrapper.__init__(self, env)
        self._coordinates = Coordinates(
            env.observation_space, env.action_space, permutation, signs, actions
        )
        self.observation_space = self._coordinates.observation_space

    @property
    def action_masks(self) -> Callable[[], np.ndarray]:
        """What tells which actions are allowed; there only if the environment has such a method."""
        if not has_masks(self.env):
            raise AttributeError(f"{self.env} has no method `action_masks`")
        return self._masks

    @property
    def get_action_meanings(self) -> Callable[[], list[str]]:
        """What names the choices; there only if the environment has such a method."""
        return in_coordinates(self.env, self._coordinates.actions)

    def _masks(self) -> np.ndarray:
        return self._coordinates.masks(masks_of(self.env))

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(**kwargs)
        return self._coordinates.observation(observation), self._coordinates.info(info)

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Act."""
        observation, reward, terminated, truncated, info = self.env.step(
            self._coordinates.action(action)
        )
        shown = self._coordinates.observation(observation)
        return shown, reward, terminated, truncated, self._coordinates.info(info)


class ConflictingVector(ShownWorld):
    """Show all copies of a vector world in other :class:`Coordinates`.

    :param env: a :class:`~sb3_moe_envs.vector.world.VectorWorld`
    :param permutation: as of :class:`Coordinates`, like the next two
    :raises TypeError: if ``env`` can't begin a step and end it later
    """

    def __init__(
        self,
        env: VectorEnv[np.ndarray, np.ndarray, np.ndarray],
        *,
        permutation: Sequence[int] | None = None,
        signs: Sequence[int] | None = None,
        actions: Sequence[int] | None = None,
    ) -> None:
        for name in ("step_async", "step_wait"):
            if not hasattr(env, name):
                raise TypeError(
                    f"`env` must have `{name}`, as worlds of sb3_moe_envs do, got {env}; wrap its "
                    "copies in Conflicting instead"
                )
        super().__init__(env)
        self._coordinates = Coordinates(
            env.single_observation_space, env.single_action_space, permutation, signs, actions
        )
        self.single_observation_space = self._coordinates.observation_space
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    @property
    def action_masks(self) -> Callable[[], np.ndarray]:
        """What tells each copy's allowed actions; there only if the world has such a method."""
        own = masks_of_copies(self.env)
        if own is None:
            raise AttributeError(f"{self.env} has no method `action_masks`")
        return functools.partial(self._masks, own)

    @property
    def get_action_meanings(self) -> Callable[[], list[str]]:
        """What names the choices; there only if the environment has such a method."""
        return in_coordinates(self.env, self._coordinates.actions)

    def _masks(self, own: Callable[[], Any]) -> np.ndarray:
        return self._coordinates.masks(own())

    def shown(self, observations: np.ndarray) -> np.ndarray:
        """Show observations in these coordinates."""
        return self._coordinates.observation(observations)

    def told(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Tell infos, whose masks are of these coordinates."""
        return self._coordinates.info(infos)

    def meant(self, actions: Any) -> Any:
        """Give the world's actions."""
        return self._coordinates.action(actions)


def _permutation(name: str, given: Sequence[int] | None, length: int) -> np.ndarray:
    order = list(range(length)) if given is None else _numbers(given)
    if order is None or sorted(order) != list(range(length)):
        raise ValueError(f"`{name}` must have each of 0 to {length - 1} once, got {given!r}")
    return np.array(order)


def _signs(given: Sequence[int] | None, space: spaces.Box) -> np.ndarray | None:
    if given is None:
        return None
    signs, length = _numbers(given), space.shape[-1]
    if signs is None or len(signs) != length or any(sign not in (1, -1) for sign in signs):
        raise ValueError(f"`signs` must be {length} of 1 and -1, got {given!r}")
    dtype = np.dtype(space.dtype)
    # The least of the signed integers has no opposite.
    if dtype.kind in "bu" or (dtype.kind == "i" and (space.low == np.iinfo(dtype).min).any()):
        raise ValueError(
            f"`signs` must be None for observations of {dtype} from {space.low.min()} on, "
            f"got {given!r}"
        )
    return np.array(signs, dtype=dtype)


def _numbers(given: Any) -> list[int] | None:
    """Read whole numbers; None for anything else."""
    try:
        return [whole("", value, None) for value in given]
    except (TypeError, ValueError):
        return None
