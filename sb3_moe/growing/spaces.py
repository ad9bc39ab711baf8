"""What observations of another environment may hold beside those that a model knows: a task id.

Shapes: B batch, N tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.vec_env.task_ids import TASK_KEY, has_task_key


def check_env(model: BaseAlgorithm, env: Any, num_tasks: int | None) -> None:
    """Raise ValueError unless a model can go on in an environment, where a task id may join.

    :param model: the model
    :param env: wrapped; None: none
    :param num_tasks: length of a one-hot at the end of observations that are no dicts
    """
    if env is None:
        return
    old, new = model.observation_space, env.observation_space
    if env.action_space != model.action_space:
        raise ValueError(
            f"`env` must have the model's action space, {model.action_space}, got "
            f"{env.action_space}"
        )
    if new != old and not _joins(old, new, num_tasks):
        raise ValueError(
            f"`env` must have the model's observation space, {old}, or that and a Discrete "
            f"{TASK_KEY!r} (or, with `num_tasks`, a one-hot behind a flat Box), got {new}"
        )


def _joins(old: spaces.Space[Any], new: spaces.Space[Any], num_tasks: int | None) -> bool:
    """Say whether a space is another one with a task id."""
    if has_task_key(new) and not has_task_key(old):
        assert isinstance(new, spaces.Dict)
        rest = {key: each for key, each in new.spaces.items() if key != TASK_KEY}
        return (
            rest == dict(old.spaces) if isinstance(old, spaces.Dict) else [*rest.values()] == [old]
        )
    if not (isinstance(old, spaces.Box) and isinstance(new, spaces.Box) and num_tasks):
        return False
    flat = len(old.shape) == len(new.shape) == 1
    if not flat or new.shape[0] != old.shape[0] + num_tasks or new.dtype != old.dtype:
        return False
    bounds = zip((old.low, old.high), (new.low, new.high), strict=True)
    return all(np.array_equal(a, b[:-num_tasks]) for a, b in bounds)


def join_task(obs: Any, old: spaces.Space[Any], new: spaces.Space[Any]) -> Any:
    """Return observations of one space as those of another, with task ids in turn where they join.

    :param obs: a batch
    :param old: its space
    :param new: the same, or the same with a task id
    """
    if new == old:
        return obs
    rows = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
    if isinstance(new, spaces.Dict):
        task_space = new[TASK_KEY]
        assert isinstance(task_space, spaces.Discrete)
        parts = (
            obs if isinstance(obs, dict) else {key: obs for key in new.spaces if key != TASK_KEY}
        )
        return {**parts, TASK_KEY: np.arange(rows) % int(task_space.n)}
    assert isinstance(new, spaces.Box)
    num_tasks = new.shape[0] - obs.shape[1]
    one_hot = np.eye(num_tasks, dtype=obs.dtype)[np.arange(rows) % num_tasks]
    return np.concatenate([obs, one_hot], axis=1)
