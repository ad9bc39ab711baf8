"""The tasks that a model knows: what its ids stand for, as its observation space says it.

Whoever builds a world with task ids writes the tasks' names on the space that holds them, as the
attribute ``task_names``; SB3 keeps the space on the model and in its files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_moe.observations.task_ids import TASK_KEY, has_task_key
from sb3_moe.tasks.of_env import has_tasks, task_names


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
    if sorted(shown) == sorted(known):
        why = "in another order each would be taken for another"
    else:
        why = "a model is told by its set_env that other tasks take their place"
    raise ValueError(
        f"`env` must have the model's tasks in the model's order, {list(known)}, got {shown}: {why}"
    )


def _tasks_shown(env: VecEnv) -> list[str] | None:
    """Return the tasks whose ids an environment shows, or tells to its normaliser."""
    for layer in reversed([*_layers(env)]):
        # The innermost first: a normaliser from a file has the space of where it was trained, and
        # where pictures are turned or stacked, or all is normalised, the space is a new one.
        if names := names_on(layer.observation_space):
            return names
        if getattr(layer, "task_id_mode", None) == "hidden":
            return task_names(env)
    is_told = has_task_key(env.observation_space) and has_tasks(env)
    return task_names(env) if is_told else None


def _layers(env: VecEnv) -> Iterator[VecEnv]:
    yield env
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        yield env


def _holder(space: spaces.Space[Any]) -> spaces.Space[Any]:
    return space.spaces.get(TASK_KEY, space) if isinstance(space, spaces.Dict) else space
