"""What reaching a goal is worth, for hindsight (SB3's HER): each row is asked of its own task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper

from sb3_moe_envs.spaces.observations import array_fit

COMPUTE_REWARD = "compute_reward"
GOALS = ("achieved_goal", "desired_goal")


def has_goals(space: Space[Any]) -> bool:
    """Tell whether observations hold goals: checkers want them of all that has the method."""
    return isinstance(space, spaces.Dict) and set(GOALS) <= set(space.spaces)


Reward = Callable[[Any, Any, Any], Any]


def rewards_of(
    task_spaces: Sequence[Space[Any]],
    common: Space[Any],
    ask: Callable[[int], Reward],
    goals: tuple[Any, Any],
    info: Any,
) -> Any:
    """Return the rewards of goals that were reached in place of those that were wanted.

    :param task_spaces: each task's observations, Dicts with the two goals
    :param common: the observations of all tasks
    :param ask: gives a task's own `compute_reward`
    :param goals: achieved and desired, of one step or of a batch
    :param info: the step's info, or one for each step of the batch; with several tasks each holds
        its `task_id`
    :raises ValueError: if there are several tasks and an info doesn't tell which
    """
    if isinstance(info, Mapping):
        (task,) = _tasks_of([info], len(task_spaces))
        return ask(task)(*_own(task_spaces[task], common, goals), info)
    tasks_B = np.array(list(_tasks_of(info, len(task_spaces))), dtype=np.int64)
    rewards_B = np.zeros(len(tasks_B), dtype=np.float64)
    for task in np.unique(tasks_B).tolist():
        rows = np.flatnonzero(tasks_B == task)
        own = _own(task_spaces[task], common, [goal[rows] for goal in goals])
        rewards_B[rows] = ask(task)(*own, [info[row] for row in rows.tolist()])
    return rewards_B


def reward_of_env(env: gym.Env[Any, Any], name: str) -> Reward:
    """Return a task's own method.

    :param name: the task's
    :raises TypeError: if it has none
    """
    if not env.has_wrapper_attr(COMPUTE_REWARD):
        raise _lacking(name)
    found: Reward = env.get_wrapper_attr(COMPUTE_REWARD)
    return found


def reward_of_copies(env: VectorEnv[Any, Any, Any], name: str) -> Reward:
    """Return the method of a task's vector environment, or of the first of its copies.

    :param name: the task's
    :raises TypeError: if there is none
    """
    layer: Any = env
    base: Any = env.unwrapped
    while isinstance(layer, VectorWrapper) and not hasattr(layer, COMPUTE_REWARD):
        layer = layer.env
    if hasattr(layer, COMPUTE_REWARD):
        found: Reward = getattr(layer, COMPUTE_REWARD)
        return found
    if isinstance(base, SyncVectorEnv):
        return reward_of_env(base.envs[0], name)
    if hasattr(base, "call") and all(base.call("has_wrapper_attr", COMPUTE_REWARD)):
        return lambda achieved, desired, info: base.call(COMPUTE_REWARD, achieved, desired, info)[0]
    raise _lacking(name)


def _tasks_of(infos: Sequence[Mapping[str, Any]], num_tasks: int) -> Iterator[int]:
    for info in infos:
        if num_tasks > 1 and "task_id" not in info:
            raise ValueError(
                f"`info` must hold the 'task_id' of each step, as one of {num_tasks} tasks says "
                f"what its goal is worth, got {info}; HerReplayBuffer keeps it with "
                "replay_buffer_kwargs=dict(copy_info_dict=True)"
            )
        yield int(info.get("task_id", 0)) if num_tasks > 1 else 0


def _own(space: Space[Any], common: Space[Any], goals: Sequence[Any]) -> tuple[Any, Any]:
    """Return goals as a task knows them, without what only other tasks have."""
    assert isinstance(space, spaces.Dict)
    assert isinstance(common, spaces.Dict)
    own = []
    for key, goal in zip(GOALS, goals, strict=True):
        fit = array_fit(common[key], space[key])
        part = goal[(..., *fit.region)]
        own.append(part if fit.start is None else part + fit.start)
    achieved, desired = own
    return achieved, desired


def _lacking(name: str) -> TypeError:
    return TypeError(f"HER needs tasks with a method `{COMPUTE_REWARD}`, which {name!r} hasn't")
