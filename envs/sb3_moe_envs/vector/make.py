"""Pick the fastest arrangement of tasks that does what the schedule says."""

from __future__ import annotations

import functools
from typing import Any

from gymnasium.vector import VectorEnv

from sb3_moe_envs.multitask import MultiTaskEnv, as_schedule
from sb3_moe_envs.numbers import optional_whole
from sb3_moe_envs.schedules import Slots
from sb3_moe_envs.suites import ScheduleLike, tasks_of
from sb3_moe_envs.vector.multitask import MultiTaskVectorEnv
from sb3_moe_envs.vector.slots import MultiTaskSyncVectorEnv


def make_multitask_vector(
    tasks: Any,
    num_envs: int | None = None,
    *,
    schedule: ScheduleLike = None,
    vectorization: str = "sync",
    **kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """Build a vector environment over several tasks; its `repr` says which arrangement it is.

    Tasks with fixed slots, and tasks that all slots play together, are joined from one vector
    environment per task (`MultiTaskVectorEnv`). A schedule that chooses per slot and episode gets
    one `MultiTaskEnv` per slot, stepped one by one.

    >>> env = make_multitask_vector(["CartPole-v1", "Acrobot-v1"], num_envs=4)
    >>> obs, info = env.reset(seed=0)
    >>> obs["task_id"].tolist()
    [0, 0, 1, 1]

    :param tasks: a suite's name, or Gymnasium ids, (id, kwargs) pairs and callables
    :param num_envs: number of slots; None: one per task
    :param schedule: which task when, as of `MultiTaskEnv`; None: the suite's, or `Interleave()`
    :param vectorization: `"sync"` or `"async"`, as of `MultiTaskVectorEnv`
    :param kwargs: `task_id`, `obs_space`, `action_space`, `invalid_action`, `render_mode`
    :raises ValueError: if an argument is out of range, or the arrangement needed can't be async
    """
    schedule = as_schedule(schedule, tasks)
    if schedule.slots is not Slots.OWN:
        return MultiTaskVectorEnv(
            tasks, num_envs, schedule=schedule, vectorization=vectorization, **kwargs
        )
    if vectorization != "sync":
        raise ValueError(
            f"`vectorization` must be 'sync' under {schedule!r}, got {vectorization!r}"
        )
    num_slots = optional_whole("num_envs", num_envs) or len(tasks_of(tasks))
    make = functools.partial(MultiTaskEnv, tasks, schedule=schedule, num_envs=num_slots, **kwargs)
    return MultiTaskSyncVectorEnv(
        [functools.partial(make, env_index=index) for index in range(num_slots)]
    )
