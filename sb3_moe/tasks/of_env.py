"""The tasks of an environment; one without tasks is a single task itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

# What the only task of an environment without tasks is called.
ONLY = "task"


def has_tasks(env: VecEnv) -> bool:
    """Say whether an environment is a multi-task one."""
    return env.has_attr("task_names")


def task_names(env: VecEnv) -> list[str]:
    """Return the names of an environment's tasks, ``["task"]`` if it has none."""
    return list(env.get_attr("task_names")[0]) if has_tasks(env) else [ONLY]


def suite_of(env: VecEnv) -> str | None:
    """Return the name of the suite that an environment plays; None where it was given no name.

    :param env: of make_multitask_vec_env, or of copies that Gymnasium made by a suite's id
    """
    if not has_tasks(env):
        return None
    built_with = getattr(env, "built_with", None)
    if built_with is None:
        spec = env.get_attr("spec")[0]
        built_with = {} if spec is None else spec.kwargs
    tasks = built_with.get("tasks")
    return tasks if isinstance(tasks, str) else None


def require_tasks(env: VecEnv) -> None:
    """Refuse an environment without tasks.

    :raises ValueError: if it is not a multi-task environment
    """
    if not has_tasks(env):
        raise ValueError(
            "the environment must have tasks: build it with sb3_moe.make_multitask_vec_env"
            f"(tasks), got {_described(env)}"
        )


def _described(env: VecEnv) -> str:
    """Say what an environment is, whose own text is an address."""
    spec = env.get_attr("spec", indices=0)[0] if env.has_attr("spec") else None
    inside = type(env.unwrapped).__name__
    return inside if spec is None else f"{spec.id} in a {inside}"


def tasks_played(env: VecEnv) -> npt.NDArray[np.int64]:
    """Return the task that each copy plays now, (n_envs,)."""
    if not has_tasks(env):
        return np.zeros(env.num_envs, dtype=np.int64)
    return np.asarray(env.env_method("get_task"), dtype=np.int64).reshape(-1)


def only_task(env: VecEnv) -> int | None:
    """Return the task that all copies play now; None if they play several."""
    tasks = set(tasks_played(env).tolist())
    return tasks.pop() if len(tasks) == 1 else None


def action_meanings(env: VecEnv) -> dict[int, list[str]]:
    """Return what tasks call their choices, by task, for those that say so."""
    if not isinstance(env.action_space, spaces.Discrete):
        return {}
    if env.has_attr("action_meanings"):
        found: dict[int, list[str]] = env.env_method("action_meanings", indices=0)[0]
        return found
    # What stands between may take other actions than it gives.
    changed = any(env.env_is_wrapped(gym.ActionWrapper))
    if has_tasks(env) or changed or not env.has_attr("get_action_meanings"):
        return {}
    names = env.env_method("get_action_meanings", indices=0)[0]
    return {0: [*map(str, names)]}


def name_of(task: int | str | None, names: Sequence[str]) -> str | None:
    """Return the name of a task that a model remembers; earlier versions kept its number.

    A name stays a task's own where a model goes on in an environment of others.

    :param task: what is remembered; None: nothing
    :param names: of the environment's tasks
    """
    if task is None or isinstance(task, str):
        return task
    return names[task] if 0 <= task < len(names) else str(task)


def tasks_stepped(infos: Sequence[dict[str, Any]], names: Sequence[str]) -> list[int]:
    """Return the task that made each environment's step.

    :param infos: of the step
    :param names: of the environment's tasks
    """
    if len(names) == 1:  # what a plain environment calls its `task_id` is no place among ours
        return [0] * len(infos)
    return [info["task_id"] for info in infos]
