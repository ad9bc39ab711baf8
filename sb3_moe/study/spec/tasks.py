"""Tasks as a file says them: MinAtar's games, a suite, Gymnasium ids, callables by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.study.spec.named import arguments_for

#: An entry of ``tasks``.
Entry = str | tuple[str, Mapping[str, Any]]
#: What ``tasks`` may be: a suite's name, or entries; none where ``games`` names them.
Entries = str | tuple[Entry, ...]

#: Games that a file can name without an id.
MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
# What a run gives the environment itself; a run draws no images.
_OWN = ("tasks", "num_envs", "schedule", "render_mode")


def game_id(game: str) -> str:
    """Give the Gymnasium id of a game."""
    return f"SB3MoE/MinAtar-{game}-v1" if game in MINATAR else game


def read_tasks(games: Sequence[str], tasks: Entries = (), no_op_max: int = 0) -> list[Any]:
    """Give the tasks of a study, with their names.

    :param games: by their short names or ids; not looked at where there are ``tasks``
    :param tasks: a suite's name, or entries
    :param no_op_max: most no-ops at the start of an episode of MinAtar's games by short names
    :return: :class:`sb3_moe_envs.Task` objects
    :raises ValueError: if there is no such suite, id, module or callable
    """
    import gymnasium as gym

    from sb3_moe_envs.suites import tasks_of
    from sb3_moe_envs.tasks import Task

    if not tasks:
        for game in games:
            if game_id(game) not in gym.registry:
                raise ValueError(
                    f"`games` must be among {', '.join(MINATAR)} or a registered Gymnasium id, "
                    f"got {game!r}"
                )
        no_ops = {"no_op_max": no_op_max}
        return [Task(game, game_id(game), no_ops if game in MINATAR else {}) for game in games]
    entries: Any = tasks
    if not isinstance(tasks, str):
        entries = [entry_of(each, f"tasks[{i}]") for i, each in enumerate(tasks)]
    try:
        return tasks_of(entries)
    except TypeError as error:
        raise ValueError(str(error)) from error


def entry_of(entry: Any, where: str) -> Any:
    """Give an id, an id with arguments, or the callable that ``module:callable`` stands for.

    :param where: what holds the entry
    :raises ValueError: if there is no such id, module or callable
    """
    import gymnasium as gym

    reference, arguments = (entry, None) if isinstance(entry, str) else entry
    module, colon, name = reference.partition(":")
    try:
        found = getattr(import_module(module), name, None) if colon else None
    except Exception as error:  # a module may raise anything while it is imported
        raise ValueError(f"`{where}` can't be imported, got {reference!r}: {error}") from error
    known = (name if colon else reference) in gym.registry
    if known and arguments is not None:
        return reference, dict(arguments)
    if arguments is None and (known or callable(found)):
        return reference if known else found
    raise ValueError(
        f"`{where}` must be a registered Gymnasium id, an id with its arguments, or "
        f"`package.module:callable`, got {entry!r}"
    )


def check_env(env: Mapping[str, Any]) -> None:
    """Raise unless :func:`sb3_moe.make_multitask_vec_env` takes the arguments of a file.

    :raises ValueError: naming the entry
    """
    from sb3_moe_envs import MultiTaskVectorEnv

    arguments_for(MultiTaskVectorEnv, env, "env", _OWN)


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
