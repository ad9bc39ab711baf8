"""The tasks of an environment: their names, which is played, and their names in a logger's keys."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_moe.vec_env.task_ids import TASK_KEY, has_task_key

# The name of the only task of an environment that isn't multi-task.
ONLY = "task"


def has_tasks(env: VecEnv) -> bool:
    """Say whether an environment is a multi-task one."""
    return env.has_attr("task_names")


def task_names(env: VecEnv) -> list[str]:
    """Return the names of an environment's tasks, ``["task"]`` if it has none."""
    return list(env.get_attr("task_names")[0]) if has_tasks(env) else [ONLY]


def suite_of(env: VecEnv) -> str | None:
    """Return the name of the suite that make_multitask_vec_env was given; None: it was not."""
    tasks = (getattr(env, "recipe", None) or {}).get("tasks")
    return tasks if isinstance(tasks, str) else None


def require_tasks(env: VecEnv) -> None:
    """Refuse an environment without tasks.

    :raises ValueError: if it is not a multi-task environment
    """
    if not has_tasks(env):
        raise ValueError(f"`env` must have tasks, as those of make_multitask_vec_env, got {env}")


def tasks_played(env: VecEnv) -> npt.NDArray[np.int64]:
    """Return the task that each parallel environment plays now, (n_envs,)."""
    if not has_tasks(env):
        return np.zeros(env.num_envs, np.int64)
    return np.asarray(env.env_method("get_task"), np.int64).reshape(-1)


def only_task(env: VecEnv) -> int | None:
    """Return the task that all parallel environments play now; None if they play several."""
    tasks = set(tasks_played(env).tolist())
    return tasks.pop() if len(tasks) == 1 else None


def action_meanings(env: VecEnv) -> dict[int, list[str]]:
    """Return the names of the actions, by task, for the tasks that name them."""
    if not isinstance(env.action_space, spaces.Discrete):
        return {}
    if env.has_attr("action_meanings"):
        return env.env_method("action_meanings", indices=0)[0]
    # An ActionWrapper may take other actions than those that the environment inside it names.
    changed = any(env.env_is_wrapped(gym.ActionWrapper))
    if has_tasks(env) or changed or not env.has_attr("get_action_meanings"):
        return {}
    names = env.env_method("get_action_meanings", indices=0)[0]
    return {0: [*map(str, names)]}


def tasks_stepped(infos: Sequence[dict[str, Any]], names: Sequence[str]) -> list[int]:
    """Return the task in which each environment made its step.

    :param infos: of the step
    :param names: of the environment's tasks
    """
    if len(names) == 1:  # a single-task environment's `task_id` may mean something else
        return [0] * len(infos)
    return [info["task_id"] for info in infos]


def names_on(space: spaces.Space) -> list[str] | None:
    """Return the task names that an observation space holds; None if it holds none."""
    names = getattr(_holder(space), "task_names", None)
    return None if names is None else list(names)


def write_names(space: spaces.Space, names: Sequence[str]) -> None:
    """Store the tasks' names on a space, such as one that was made anew and lost them."""
    vars(_holder(space))["task_names"] = tuple(names)


def tasks_known(model: BaseAlgorithm) -> list[str] | None:
    """Return the names of a model's tasks, by id; None if they are unknown.

    These are the tasks of the model's environment, which ``set_env`` may replace. If that tells no
    names, they are those that the model's observation space holds.

    :param model: of any algorithm
    """
    env = model.get_env()
    return (env and _tasks_shown(env)) or names_on(model.observation_space)


def check_tasks(known: Sequence[str] | None, env: VecEnv) -> None:
    """Refuse an environment in which ids stand for other tasks than a model knows.

    :param known: of :func:`tasks_known`; None accepts any environment
    :param env: the environment to play; one that doesn't name its tasks is accepted
    :raises ValueError: if they are other tasks; the message has both lists
    """
    shown = None if known is None else _tasks_shown(env)
    if known is None or shown is None or shown == list(known) or len(shown) == len(known) == 1:
        return
    others = {*known} != {*shown}
    raise ValueError(
        f"`env` must have the model's tasks in the model's order, {list(known)}, got {shown}"
        + ("; to replace the model's tasks, call model.set_env(env)" if others else "")
    )


def _tasks_shown(env: VecEnv) -> list[str] | None:
    """Return the tasks whose ids are in an environment's observations or told to its normalizer."""
    layers = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    for layer in reversed(layers):
        # The innermost first: a normalizer from a file has the space of the environment that it was
        # trained with, and wrappers that transpose, stack or normalize make a new space, without
        # names.
        if names := names_on(layer.observation_space):
            return names
        if getattr(layer, "task_id_mode", None) == "hidden":
            return task_names(env)
    is_told = has_task_key(env.observation_space) and has_tasks(env)
    return task_names(env) if is_told else None


def _holder(space: spaces.Space) -> spaces.Space:
    return space.spaces.get(TASK_KEY, space) if isinstance(space, spaces.Dict) else space


# SB3's HumanOutputFormat prints 36 characters of a key, with three spaces in place of its tag.
PRINTED = 33
# The longest task name with which eval/<task>/mean_ep_length is printed whole.
TASK = 18
# The length of the longest layer name of our own, vf_features.10.
LAYER = 14


def short_names(names: Sequence[str], length: int = TASK) -> list[str]:
    """Return a short form of each name that fits into a logger's key, all of them different.

    :param names: of any characters, also equal ones
    :param length: characters that a key has room for, at least 8
    """
    used: list[str] = []
    for name in names:
        used.append(_unlike(used, _cut(_plain(name), length), length))
    return used


def _plain(name: str) -> str:
    """Replace characters that an experiment tracker refuses or takes for a folder."""
    text = re.sub(r"[^A-Za-z0-9_.\-]+", "_", name)
    text = text if text == name else text.strip("_")
    return text if text.strip(".") else "task"


def _cut(name: str, length: int) -> str:
    """Leave out the middle: variants of one environment mostly differ at their end."""
    if len(name) <= length:
        return name
    tail = (length - 2) * 2 // 3
    return f"{name[: length - 2 - tail]}--{name[-tail:]}"


def _unlike(used: Collection[str], name: str, length: int) -> str:
    """Append a number to a name that is already used."""
    number = 1
    numbered = name
    while numbered in used:
        number += 1
        end = f"-{number}"
        numbered = name[: length - len(end)] + end
    return numbered
