"""The one call that builds a VecEnv over several tasks."""

from __future__ import annotations

import os
from inspect import signature
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from sb3_moe.layers.classes import did_you_mean
from sb3_moe.vec_env.gymnasium_vec_env import GymnasiumVecEnv


def make_multitask_vec_env(
    tasks: Any,
    n_envs: int | None = None,
    seed: int | None = None,
    *,
    schedule: Any = None,
    task_id: str = "dict",
    monitor_dir: str | os.PathLike[str] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> VecEnv:
    """Build a monitored VecEnv over several tasks, in the fastest arrangement that fits them.

    >>> env = make_multitask_vec_env(["CartPole-v1", "Acrobot-v1"], n_envs=4, seed=0)
    >>> env.get_attr("task_names")[0]
    ['CartPole', 'Acrobot']
    >>> env.reset()["task_id"].tolist()
    [0, 0, 1, 1]

    :param tasks: a suite's name, or a list of Gymnasium ids, (id, kwargs) pairs or callables
    :param n_envs: how many environments; None: one per task
    :param seed: of the environments and the schedule, used at the first reset
    :param schedule: which task is played when; None: the suite's own, or all tasks interleaved
    :param task_id: how the task is shown: "dict", "onehot", "channels", "info" or "none"
    :param monitor_dir: folder for monitor.csv; None: no file
    :param monitor_kwargs: for VecMonitor
    :param kwargs: as of :func:`sb3_moe_envs.make_multitask_vector` (``obs_space``, ...)
    :raises TypeError: if there is no such argument
    :raises ValueError: if there are fewer environments than interleaved tasks, or the seed is no
        whole number
    """
    from sb3_moe_envs import MultiTaskVectorEnv, make_multitask_vector
    from sb3_moe_envs.closing import closed_on_error
    from sb3_moe_envs.numbers import optional_whole

    theirs = [*signature(MultiTaskVectorEnv).parameters][1:]
    own = [*signature(make_multitask_vec_env).parameters][:-1]
    for name in kwargs:
        if name not in theirs or name == "num_envs":
            raise TypeError(
                f"make_multitask_vec_env got an unexpected keyword argument {name!r}"
                f"{did_you_mean(name, {*own, *theirs} - {'num_envs'})}"
            )
    n_envs = _number_of_envs(tasks, n_envs, schedule)
    seed = optional_whole("seed", seed, 0)
    env = GymnasiumVecEnv(
        make_multitask_vector(tasks, n_envs, schedule=schedule, task_id=task_id, **kwargs)
    )
    env.built_with = {
        "tasks": tasks,
        "n_envs": n_envs,
        "schedule": schedule,
        "task_id": task_id,
        "monitor_dir": monitor_dir,
        "monitor_kwargs": monitor_kwargs,
        **kwargs,
    }
    env.seed(seed)
    env.action_space.seed(seed)
    with closed_on_error(env.close):
        return _monitored(env, monitor_dir, monitor_kwargs)


def _monitored(
    env: VecEnv, monitor_dir: str | os.PathLike[str] | None, monitor_kwargs: dict[str, Any] | None
) -> VecEnv:
    folder = None if monitor_dir is None else os.fspath(monitor_dir)  # SB3 takes no Path
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
    # The keys are in every info, so each episode that SB3 keeps or writes says whose it is.
    options = dict(monitor_kwargs or {})
    keywords = ("task_id", "task_name", *options.pop("info_keywords", ()))
    return VecMonitor(env, folder, info_keywords=tuple(dict.fromkeys(keywords)), **options)


def _number_of_envs(tasks: Any, n_envs: int | None, schedule: Any) -> int:
    from sb3_moe_envs.multitask import as_schedule
    from sb3_moe_envs.numbers import whole
    from sb3_moe_envs.schedules import Slots
    from sb3_moe_envs.suites import tasks_of

    num_tasks = len(tasks_of(tasks))
    n_envs = num_tasks if n_envs is None else n_envs
    n_envs = whole("n_envs", n_envs)
    if as_schedule(schedule, tasks).slots is Slots.SHARED and n_envs < num_tasks:
        raise ValueError(
            f"`n_envs` must be at least the number of interleaved tasks, {num_tasks}, got {n_envs}"
        )
    return n_envs
