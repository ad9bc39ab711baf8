"""The tasks of an environment: their names, which one is on, and how a logger's keys call them."""

import itertools
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
    recipe = getattr(env, "recipe", None)
    if recipe is None:
        spec = env.get_attr("spec")[0]
        recipe = {} if spec is None else spec.kwargs
    tasks = recipe.get("tasks")
    return tasks if isinstance(tasks, str) else None


def require_tasks(env: VecEnv) -> None:
    """Refuse an environment without tasks.

    :raises ValueError: if it is not a multi-task environment
    """
    if not has_tasks(env):
        raise ValueError(f"the environment must have tasks, as make_multitask_vec_env's, got {env}")


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


def tasks_stepped(infos: Sequence[dict[str, Any]], names: Sequence[str]) -> list[int]:
    """Return the task that made each environment's step.

    :param infos: of the step
    :param names: of the environment's tasks
    """
    if len(names) == 1:  # what a plain environment calls its `task_id` is no place among ours
        return [0] * len(infos)
    return [info["task_id"] for info in infos]


def names_on(space: spaces.Space[Any]) -> list[str] | None:
    """Return the names of the tasks whose ids are in observations; None where nothing says them."""
    names = getattr(_holder(space), "task_names", None)
    return None if names is None else list(names)


def write_names(space: spaces.Space[Any], names: Sequence[str]) -> None:
    """Write the tasks' names on a space that was made anew."""
    vars(_holder(space))["task_names"] = tuple(names)


def tasks_known(model: BaseAlgorithm) -> list[str] | None:
    """Return the names of a model's tasks, by id; None where nothing says them.

    Its environment's are its own: ``set_env`` gives it others.

    :param model: of any algorithm
    """
    env = model.get_env()
    return (env and _tasks_shown(env)) or names_on(model.observation_space)


def check_tasks(known: Sequence[str] | None, env: VecEnv) -> None:
    """Refuse an environment in which ids stand for other tasks than a model knows.

    :param known: of :func:`tasks_known`; None takes all
    :param env: which is to be played; one that doesn't say its tasks' names is taken
    :raises ValueError: with both lists
    """
    shown = None if known is None else _tasks_shown(env)
    if known is None or shown is None or shown == list(known) or len(shown) == len(known) == 1:
        return
    others = {*known} != {*shown}
    raise ValueError(
        f"`env` must have the model's tasks in the model's order, {list(known)}, got {shown}"
        + ("; if they take the place of its own, tell it so by its set_env" if others else "")
    )


def _tasks_shown(env: VecEnv) -> list[str] | None:
    """Return the tasks whose ids an environment shows, or tells to its normalizer."""
    layers = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    for layer in reversed(layers):
        # The innermost first: a normalizer from a file has the space of where it was trained, and
        # where images are turned or stacked, or all is normalized, the space is a new one.
        if names := names_on(layer.observation_space):
            return names
        if getattr(layer, "task_id_mode", None) == "hidden":
            return task_names(env)
    is_told = has_task_key(env.observation_space) and has_tasks(env)
    return task_names(env) if is_told else None


def _holder(space: spaces.Space[Any]) -> spaces.Space[Any]:
    return space.spaces.get(TASK_KEY, space) if isinstance(space, spaces.Dict) else space


# HumanOutputFormat prints 36 characters, of which three are spaces in place of the tag.
PRINTED = 33
# The most with which eval/<task>/mean_ep_length is printed whole.
TASK = 18
# The longest of our own: vf_features.10; dormant_per_expert comes before it.
LAYER, MEASURE = 14, 18


def short_names(names: Sequence[str], length: int = TASK, taken: Collection[str] = ()) -> list[str]:
    """Return a name for each of these that fits a key, all of them different.

    :param names: of any characters, also equal ones
    :param length: characters that a key has room for, at least 8
    :param taken: names that must not come out
    """
    used, short = {*taken}, []
    for name in names:
        short.append(_unlike(used, _cut(_plain(name), length), length))
        used.add(short[-1])
    return short


def _plain(name: str) -> str:
    """Replace what a tracker refuses, or takes for a folder."""
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
    """Number a name that is taken."""
    ends = (f"-{number}" for number in itertools.count(2))
    numbered = (name[: length - len(end)] + end for end in ends)
    return next(each for each in itertools.chain([name], numbered) if each not in used)
