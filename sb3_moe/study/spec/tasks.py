"""Tasks as a file says them: a suite, Gymnasium ids, ids with arguments, callables by name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.study.spec.games import games_as_tasks
from sb3_moe.study.spec.signatures import check_arguments

#: An entry of ``tasks``.
Entry = str | tuple[str, Mapping[str, Any]]
#: What ``tasks`` may be: a suite's name, or entries; none where ``games`` names them.
Entries = str | tuple[Entry, ...]

# What a cell gives the environment itself; a run draws no pictures.
OWN = ("tasks", "num_envs", "schedule", "render_mode")


def read_tasks(games: Sequence[str], tasks: Entries = (), no_op_max: int = 0) -> list[Any]:
    """Give the tasks of a study, with their names.

    :param games: by their short names or ids; not looked at where there are ``tasks``
    :param tasks: a suite's name, or entries
    :param no_op_max: most no-ops at the start of an episode of MinAtar's games by short names
    :return: :class:`sb3_moe_envs.Task` objects
    :raises ValueError: if there is no such suite, id, module or callable
    """
    if not tasks:
        return games_as_tasks(games, no_op_max)
    from sb3_moe_envs.suites import tasks_of

    entries: Any = tasks
    if isinstance(tasks, tuple | list):
        entries = [entry_of(each, f"tasks[{i}]") for i, each in enumerate(tasks)]
    try:
        return tasks_of(entries)
    except TypeError as error:
        raise ValueError(str(error)) from error


def task_names(tasks: Entries) -> tuple[str, ...]:
    """Name the tasks, as ``games`` and ``orders`` call them."""
    return tuple(task.name for task in read_tasks((), tasks))


def as_entries(value: Any) -> Any:
    """Give entries in the form that compares and hashes alike: tuples for a file's lists."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)


def entry_of(entry: Any, where: str) -> Any:
    """Give an id, an id with arguments, or the callable that ``module:callable`` stands for.

    :param where: what holds the entry
    :raises ValueError: if there is no such id, module or callable
    """
    import gymnasium as gym

    if isinstance(entry, str):
        reference, arguments = entry, None
    elif isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
        reference, arguments = entry
    else:
        return entry  # for `tasks_of` to refuse
    module, colon, name = reference.partition(":")
    try:
        found = getattr(import_module(module), name, None) if colon else None
    except Exception as error:  # a module may raise anything while it is imported
        raise ValueError(f"`{where}` can't be imported, got {reference!r}: {error}") from error
    known = (name if colon else reference) in gym.registry
    if known and isinstance(arguments, Mapping):
        return reference, dict(arguments)
    if arguments is None and (known or callable(found)):
        return reference if known else found
    raise ValueError(
        f"`{where}` must be a registered Gymnasium id, an id with its arguments, or "
        f"`package.module:callable`, got {entry!r}"
    )


def check_env(env: Mapping[str, Any]) -> None:
    """Raise unless the environment of several tasks takes the arguments.

    :param env: those of :func:`sb3_moe.make_multitask_vec_env` that a file may give
    :raises ValueError: naming the entry
    """
    from sb3_moe_envs import MultiTaskVectorEnv

    check_arguments(MultiTaskVectorEnv, env, "env", OWN)


def make_env(
    games: Sequence[str],
    n_envs: int,
    seed: int,
    schedule: Any,
    *,
    tasks: Entries = (),
    env: Mapping[str, Any] | None = None,
    no_op_max: int = 0,
) -> VecEnv:
    """Build the environment of a run: all tasks, and a schedule that says which is played.

    :param games: as of :func:`read_tasks`
    :param tasks: likewise
    :param env: further arguments of :func:`sb3_moe.make_multitask_vec_env`
    :param no_op_max: as of :func:`read_tasks`
    """
    from sb3_moe.vec_env.make import make_multitask_vec_env

    every = read_tasks(games, tasks, no_op_max)
    return make_multitask_vec_env(every, n_envs, seed, schedule=schedule, **(env or {}))


def in_a_folders_name(names: Sequence[str], tasks: Entries) -> str:
    """Join names of tasks to a part of a folder's name, the one that 0.1 gave where it could."""
    joined = ".".join(names)
    if not tasks:
        return joined
    plain = re.sub(r"[^\w.,=()+#-]+", "_", joined)
    return plain if plain == joined else f"{plain}~{digest(names)}"


def digest(names: Sequence[str]) -> str:
    """Give a short word that tells names from others, for folders that can't hold them."""
    return hashlib.sha256(".".join(names).encode()).hexdigest()[:12]
