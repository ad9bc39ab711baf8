"""Methods that environments may have, wrapped or many at a time.

They are masks and names of actions, and the rewards of goals for hindsight (SB3's HER).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import SyncVectorEnv, VectorActionWrapper, VectorWrapper

from sb3_moe_envs.spaces.observations import array_fit

ACTION_MASKS, MEANINGS = "action_masks", "get_action_meanings"
COMPUTE_REWARD = "compute_reward"
GOALS = ("achieved_goal", "desired_goal")
# Behind these wrappers, names and masks are those of other actions.
_OTHER_ACTIONS = (gym.ActionWrapper, VectorActionWrapper)


def method_of(env: Any, name: str, *, of_actions: bool = True) -> Callable[..., Any] | None:
    """Return a method of an environment or vector environment, or of a wrapper; None: it has none.

    :param of_actions: the method is about the actions that `env` takes, so a wrapper that changes
        them hides it
    """
    while not hasattr(env, name):
        is_wrapper = isinstance(env, gym.Wrapper | VectorWrapper)
        if not is_wrapper or (of_actions and isinstance(env, _OTHER_ACTIONS)):
            return None
        env = env.env
    method: Callable[..., Any] = getattr(env, name)
    return method


def results_of_all(env: Any, name: str) -> list[Any] | None:
    """Call a method of each environment of a vector environment; None: they have none.

    A vector environment that keeps its environments elsewhere may have a method of this name.
    """
    while isinstance(env, VectorWrapper):
        if isinstance(env, _OTHER_ACTIONS):
            return None
        env = env.env
    if isinstance(env, SyncVectorEnv):
        methods = [method_of(each, name) for each in env.envs]
        return None if None in methods else [method() for method in methods if method]
    return list(env.call(name)) if _all_have(env, name) else None


def _all_have(env: Any, name: str) -> bool:
    # A worker process of Gymnasium's shuts down if it is asked for what it doesn't have.
    return hasattr(env, "call") and all(env.call("has_wrapper_attr", name))


def masks_of(env: Any) -> np.ndarray | None:
    """Return the action masks that a vector environment, or each environment, gives, by row."""
    method = method_of(env, ACTION_MASKS)
    own = method() if method else results_of_all(env, ACTION_MASKS)
    return None if own is None else np.asarray(own)


def meanings_of(env: Any) -> list[str] | None:
    """Return the names of an environment's or vector environment's actions; None: it has none."""
    names = method_of(env, MEANINGS)
    if names is not None:
        return [*map(str, names())]
    of_all = results_of_all(env, MEANINGS)
    return None if of_all is None else [*map(str, of_all[0])]


def has_goals(space: Space[Any]) -> bool:
    """Return whether observations hold goals: checkers want them wherever the method is."""
    return isinstance(space, spaces.Dict) and set(GOALS) <= set(space.spaces)


def rewards_of(
    task_spaces: Sequence[Space[Any]],
    common: Space[Any],
    reward: Callable[..., Any],
    goals: tuple[Any, Any],
    info: Any,
) -> Any:
    """Return the rewards of goals that were reached in place of those that were wanted.

    :param task_spaces: each task's observations, Dicts with the two goals
    :param common: the observations of all tasks
    :param reward: of a task, its goals and its info
    :param goals: achieved and desired, of one step or of a batch
    :param info: the step's info, or one for each step of the batch; with several tasks each holds
        its `task_id`
    :raises ValueError: if there are several tasks and an info doesn't tell which
    """
    if isinstance(info, Mapping):
        task = _task_of(info, len(task_spaces))
        return reward(task, *_own(task_spaces[task], common, goals), info)
    tasks_B = np.array([_task_of(each, len(task_spaces)) for each in info], dtype=np.int64)
    rewards_B = np.zeros(len(tasks_B), dtype=np.float64)
    for task in np.unique(tasks_B).tolist():
        rows = np.flatnonzero(tasks_B == task)
        own = _own(task_spaces[task], common, [goal[rows] for goal in goals])
        rewards_B[rows] = reward(task, *own, [info[row] for row in rows.tolist()])
    return rewards_B


def reward_of(env: Any, *goals_and_info: Any) -> Any:
    """Call `compute_reward` of a vector environment, or of its first; None: there is none."""
    method = method_of(env, COMPUTE_REWARD, of_actions=False)
    base: Any = env.unwrapped
    if method is None and isinstance(base, SyncVectorEnv):
        method = method_of(base.envs[0], COMPUTE_REWARD, of_actions=False)
    if method is None and _all_have(base, COMPUTE_REWARD):
        return base.call(COMPUTE_REWARD, *goals_and_info)[0]
    return None if method is None else method(*goals_and_info)


def _task_of(info: Mapping[str, Any], num_tasks: int) -> int:
    if num_tasks > 1 and "task_id" not in info:
        raise ValueError(
            f"`info` must hold the 'task_id' of each step, as one of {num_tasks} tasks gives the "
            f"reward of its goal, got {info}; HerReplayBuffer keeps it with "
            "replay_buffer_kwargs=dict(copy_info_dict=True)"
        )
    return int(info.get("task_id", 0)) if num_tasks > 1 else 0


def _own(space: Any, common: Any, goals: Sequence[Any]) -> list[Any]:
    """Return goals as a task knows them, without what only other tasks have."""
    own = []
    for key, goal in zip(GOALS, goals, strict=True):
        fit = array_fit(common[key], space[key])
        part = goal[(..., *fit.region)]
        own.append(part if fit.start is None else part + fit.start)
    return own
