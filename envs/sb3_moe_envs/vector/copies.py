"""Copies of a task, in this process or in another."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sb3_moe_envs.checks import reset_result_problem, step_result_problem
from sb3_moe_envs.snapshot import Stateless, restore, snapshot
from sb3_moe_envs.tasks import Task


class TaskCopy(Stateless):
    """Say what is wrong with what a task returns before a vector environment takes it apart."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :raises TypeError: if the task doesn't return an observation and an info
        """
        result = self.env.reset(**kwargs)
        _require_no(reset_result_problem(result))
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act.

        :raises TypeError: if the task doesn't return the five values of a step
        """
        result = self.env.step(action)
        _require_no(step_result_problem(result))
        return result


def make_copies(
    task: Task, num_envs: int, render_mode: str | None, *, copy: bool = True
) -> SyncVectorEnv:
    """Build copies of a task that are stepped one by one.

    :param copy: give away arrays that the next step doesn't write into
    """
    env_fns = [functools.partial(_make_copy, task, render_mode)] * num_envs
    return SyncVectorEnv(env_fns, copy=copy, autoreset_mode=AutoresetMode.SAME_STEP)


def states_of(copies: SyncVectorEnv) -> list[Any]:
    """Return the state of each copy, None for one that has none to give."""
    return [snapshot(single) for single in copies.envs]


def restore_states(copies: SyncVectorEnv, states: Sequence[Any]) -> None:
    """Bring each copy into a state."""
    for single, saved in zip(copies.envs, states, strict=True):
        restore(single, saved)


def _make_copy(task: Task, render_mode: str | None) -> gym.Env[Any, Any]:
    return TaskCopy(task.make(render_mode))


def abandon(env: VectorEnv[Any, Any, Any]) -> None:
    """Close a vector environment after an error.

    Worker processes are ended: an answer that is waited for may be wrong too, or never come.
    """
    if not isinstance(env.unwrapped, AsyncVectorEnv):
        env.close()
        return
    with suppress(Exception):
        env.close(terminate=True)
    env.close(terminate=True)


def _require_no(problem: str | None) -> None:
    if problem:
        raise TypeError(problem)
