"""Copies of a task, in this process or in another."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from sb3_moe_envs.checks import reset_result_problem, step_result_problem
from sb3_moe_envs.closing import close_each
from sb3_moe_envs.snapshot import Stateless, restore, snapshot
from sb3_moe_envs.tasks import Task
from sb3_moe_envs.vector.all_or_none import AllOrNone
from sb3_moe_envs.vector.infos import MixedInfos


class TaskCopy(Stateless):
    """Say what is wrong with what a task returns before a vector environment takes it apart."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :raises TypeError: if the task doesn't return an observation and an info
        """
        # As SB3 does: a `reset` of the user's own may not know of options.
        given = {name: value for name, value in kwargs.items() if value is not None}
        result = self.env.reset(**given)
        _require_no(reset_result_problem(result))
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act.

        :raises TypeError: if the task doesn't return the five values of a step, or the reward is no
            finite number
        """
        result = self.env.step(action)
        _require_no(step_result_problem(result))
        return result


class Copies(MixedInfos, AllOrNone):
    """Gymnasium's, with less around a step: most tasks of a world have a single copy.

    New arrays each time need no copies, and the mode of autoreset is SAME_STEP.
    """

    def step(  # type: ignore[override]  # Gymnasium's own returns type variables that it never binds
        self, actions: Any
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step each copy with its action, of shape (num_envs, ...).

        :raises ValueError: if an observation is of another shape
        """
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        observations, infos = [], dict[str, Any]()
        each = zip(self.envs, iterate(self.action_space, actions), strict=True)
        for i, (env, action) in enumerate(each):
            obs, rewards[i], terminated[i], truncated[i], info = env.step(action)
            if terminated[i] or truncated[i]:
                infos = self._add_info(infos, {"final_obs": obs, "final_info": info}, i)
                obs, info = env.reset()
            if info:
                infos = self._add_info(infos, info, i)
            observations.append(obs)
        space = self.single_observation_space
        joined = concatenate(space, observations, create_empty_array(space, self.num_envs))
        return joined, rewards, terminated, truncated, infos


def make_copies(task: Task, num_envs: int, render_mode: str | None) -> Copies:
    """Build copies of a task that are stepped one by one."""
    env_fns = [functools.partial(_make_copy, task, render_mode)] * num_envs
    copies = Copies(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)
    if len({id(each.unwrapped) for each in copies.envs}) < num_envs:
        close_each(copies.envs)
        raise ValueError(
            f"`env_fn` of task {task.name!r} must build a new environment each time, and gave one "
            "twice: copies that are one would step each other"
        )
    return copies


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
