"""Check what a task returns: anything else would be broadcast or cast silently further on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.snapshot import Stateless

Options = dict[str, Any] | None
ResetResult = tuple[Any, dict[str, Any]]
# Of many environments: one seed, which the others count on from, or one for each.
Seed = int | Sequence[int | None] | None
StepResult = tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]

# Larger rewards would reach the learner, which keeps them in float32, as infinite.
MAX_REWARD = float(np.finfo(np.float32).max)
# Tuples of types: every step asks, and unions take twice as long.
_NUMBERS = (float, int, np.number, np.bool_)
_BOOLS = (bool, np.bool_)

SUCCESS_KEYS = ("is_success", "success")
# The success of an episode in which no step has said anything.
UNKNOWN = float("nan")


class CheckedTask(Stateless):
    """Raise a TypeError that says what is wrong with what a task returns.

    An episode's last observation is a copy, since the task may write the next one over it.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._space, self._shape = env.observation_space, env.observation_space.shape

    def reset(self, **kwargs: Any) -> ResetResult:
        """Start an episode; arguments that are None are left out, as the task may not take them."""
        result = self.env.reset(**{name: each for name, each in kwargs.items() if each is not None})
        require_reset_result(self._space, result)
        return result

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act."""
        result: Any = self.env.step(action)
        if type(result) is not tuple or len(result) != 5 or type(result[4]) is not dict:
            _require_form(result)  # what is of a subclass passes
        obs, reward, terminated, truncated, info = result
        if not isinstance(reward, _NUMBERS) or not -MAX_REWARD <= reward <= MAX_REWARD:
            raise TypeError(
                f"the reward must be a finite number, and within float32, got {reward!r}"
            )
        if not isinstance(terminated, _BOOLS) or not isinstance(truncated, _BOOLS):
            raise TypeError(
                f"`terminated` and `truncated` must be bools, got {terminated!r} and {truncated!r}"
            )
        # The shape alone first: every step asks.
        if not isinstance(obs, np.ndarray) or obs.shape != self._shape:
            require_observation(self._space, obs)
        if terminated or truncated:
            return copy.deepcopy(obs), reward, terminated, truncated, info
        return result


def seed_of_each(seed: Seed, num_envs: int, options: Options = None) -> list[int | None]:
    """Return a seed for each of many environments: ``seed + i``, the given ones, or none.

    :raises ValueError: if there is another number of seeds, or `options` would reset only some
    """
    if "reset_mask" in (options or {}):
        raise ValueError("`options` can't hold 'reset_mask': all environments are reset together")
    if seed is None or isinstance(seed, int | np.integer):
        return [None if seed is None else int(seed) + index for index in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"`seed` must hold num_envs={num_envs} seeds, got {len(seed)}")
    return list(seed)


def require_reset_result(space: Space[Any], result: Any, rows: tuple[int, ...] = ()) -> None:
    """Raise TypeError unless `reset` returned an observation and an info.

    :param rows: as of :func:`require_observation`
    """
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise TypeError(f"`reset` must return (obs, info), with a dict for info, got {result!r}")
    require_observation(space, result[0], rows)


def require_step_of_all(space: Space[Any], num_envs: int, result: Any) -> None:
    """Raise TypeError unless a vector environment's step returned the five values of a step.

    :param space: of one environment's observations
    """
    _require_form(result)
    obs, rewards, *flags, _ = result
    rows = (num_envs,)
    if np.shape(rewards) != rows or not (np.abs(rewards) <= MAX_REWARD).all():
        raise TypeError(
            f"the rewards must be {num_envs} finite numbers, and within float32, got {rewards!r}"
        )
    if any(np.shape(each) != rows or np.asarray(each).dtype != np.bool_ for each in flags):
        raise TypeError(f"`terminated` and `truncated` must be {num_envs} bools each, got {flags}")
    require_observation(space, obs, rows)


def require_observation(space: Space[Any], obs: Any, rows: tuple[int, ...] = ()) -> None:
    """Raise TypeError if an observation has another shape or other keys than its space.

    :param rows: (num_envs,) for a batch
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.spaces.keys():
            raise TypeError(
                f"the observation must have the keys {sorted(space.spaces)}, got {obs!r}"
            )
        for key, part in space.spaces.items():
            require_observation(part, obs[key], rows)
        return
    expected = (*rows, *(space.shape or ()))
    # numpy's own function takes ten times as long, and every step asks.
    shape = obs.shape if isinstance(obs, np.ndarray) else np.shape(obs)
    if shape != expected:
        raise TypeError(f"the observation must have the shape {expected}, got {shape}")


def _require_form(result: Any) -> None:
    if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
        raise TypeError(
            "`step` must return (obs, reward, terminated, truncated, info), with a dict for info, "
            f"got {result!r}"
        )


def require_reset(started: bool) -> None:
    """Raise unless there was a reset, as Gymnasium's own wrapper does.

    :raises gymnasium.error.ResetNeeded: if there was none
    """
    if not started:
        raise gym.error.ResetNeeded("Cannot call env.step() before calling env.reset()")


def succeeded(so_far: float, info: Mapping[str, Any]) -> float:
    """Return 1 if a step of the episode has reported success, 0 if one has denied it, else NaN.

    :param so_far: what this returned for the step before, NaN at first
    :param info: of a step; what is neither a number nor an array of numbers reports nothing
    """
    for key in SUCCESS_KEYS:
        if key in info:
            so_far = float(np.fmax(so_far, _reported(info[key])))
    return so_far


def succeeded_rows(so_far_B: np.ndarray, infos: Mapping[str, Any], rows_B: np.ndarray) -> None:
    """Follow the steps of B environments, in place.

    :param so_far_B: as of :func:`succeeded`, one for each slot
    :param infos: of a vector environment, with masks ``_key``
    :param rows_B: the slots whose steps these infos describe
    """
    for key in SUCCESS_KEYS:
        if key in infos and not isinstance(infos[key], Mapping):
            for row in np.flatnonzero(rows_B & infos.get(f"_{key}", True)).tolist():
                so_far_B[row] = np.fmax(so_far_B[row], _reported(infos[key][row]))


def _reported(value: Any) -> float:
    """Return 1 or 0 for a number, or for an array if any of its entries is 1, else NaN."""
    if isinstance(value, np.ndarray | list | tuple):
        entries = np.ravel(value).tolist() if isinstance(value, np.ndarray) else value
        return float(np.fmax.reduce([_reported(entry) for entry in entries], initial=UNKNOWN))
    if not isinstance(value, _NUMBERS) or value != value:  # NaN alone is not itself
        return UNKNOWN
    return float(value > 0)
