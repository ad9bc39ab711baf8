"""One copy of a task among others, in this process or in one of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from sb3_moe_envs.checks import reset_result_problem, step_result_problem
from sb3_moe_envs.snapshot import Stateless
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


def make_copy(task: Task, render_mode: str | None) -> gym.Env[Any, Any]:
    """Build one copy of a task."""
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
