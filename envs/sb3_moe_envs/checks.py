"""What a task must return; anything else would be broadcast or cast in silence further on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import Space, spaces

_NUMBERS = (float, int, np.number, np.bool_)
_BOOLS = (bool, np.bool_)


def reset_result_problem(result: Any) -> str | None:
    """Say what is wrong with the form of what `reset` returned, if anything."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        return f"`reset` must return (obs, info), with a dict for info, got {result!r}"
    return None


def step_result_problem(result: Any) -> str | None:
    """Say what is wrong with what `step` returned beside the observation, if anything."""
    problem = _form_problem(result)
    if problem:
        return problem
    # Tuples of types: this is asked of every copy, and unions take twice as long.
    _, reward, terminated, truncated, _ = result
    if not isinstance(reward, _NUMBERS) or not math.isfinite(reward):
        return f"the reward must be a finite number, got {reward!r}"
    if not isinstance(terminated, _BOOLS):
        return f"`terminated` must be a bool, got {terminated!r}"
    if not isinstance(truncated, _BOOLS):
        return f"`truncated` must be a bool, got {truncated!r}"
    return None


def step_problem(space: Space[Any], result: Any) -> str | None:
    """Say what is wrong with the result of a step, if anything.

    :param space: the task's own observation space
    :param result: what `step` returned
    """
    problem = step_result_problem(result)
    if problem:
        return problem
    return observation_problem(space, result[0])


def batch_problem(space: Space[Any], num_rows: int, result: Any) -> str | None:
    """Say what is wrong with the result of a vector environment's step, if anything.

    :param space: the task's own observation space, of one row
    :param num_rows: how many rows each array must have
    :param result: what `step` returned
    """
    problem = _form_problem(result)
    if problem:
        return problem
    obs, rewards, terminated, truncated, _ = result
    rows = (num_rows,)
    if _shape(rewards) != rows or not np.isfinite(rewards).all():
        return f"the rewards must be {num_rows} finite numbers, got {rewards!r}"
    for name, flags in (("terminated", terminated), ("truncated", truncated)):
        if _shape(flags) != rows or np.asarray(flags).dtype != np.bool_:
            return f"`{name}` must be {num_rows} bools, got {flags!r}"
    return observation_problem(space, obs, rows)


def mask_problem(expected: tuple[int, ...], masks: Any) -> str | None:
    """Say what is wrong with a task's own action masks, if anything.

    :param expected: the shape of its masks, or of a batch of them
    """
    if np.shape(masks) != expected:
        return f"`action_masks` must have the shape {expected}, got {np.shape(masks)}"
    return None


def observation_problem(space: Space[Any], obs: Any, rows: tuple[int, ...] = ()) -> str | None:
    """Say what is wrong with the shape of an observation, if anything.

    :param space: the task's own observation space
    :param rows: (num_rows,) for a batch
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or set(obs) != set(space.spaces):
            return f"the observation must have the keys {sorted(space.spaces)}, got {obs!r}"
        problems = (observation_problem(space[key], obs[key], rows) for key in space.spaces)
        return next((problem for problem in problems if problem), None)
    expected = (*rows, *(space.shape or ()))
    if _shape(obs) != expected:
        return f"the observation must have the shape {expected}, got {np.shape(obs)}"
    return None


def _form_problem(result: Any) -> str | None:
    if not isinstance(result, tuple) or len(result) != 5:
        return f"`step` must return (obs, reward, terminated, truncated, info), got {result!r}"
    if not isinstance(result[4], dict):
        return f"the info of a step must be a dict, got {result[4]!r}"
    return None


def _shape(value: Any) -> tuple[int, ...]:
    # numpy's own function takes ten times as long, and this is asked several times a step.
    return value.shape if isinstance(value, np.ndarray) else np.shape(value)
