"""Environments that are stepped one after the other in this process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from sb3_moe_envs.checks import CheckedTask, Options, ResetResult, Seed, StepResult, seed_of_each
from sb3_moe_envs.multitask import MultiTaskEnv
from sb3_moe_envs.snapshot import restore, snapshot
from sb3_moe_envs.tasks import Task
from sb3_moe_envs.vector.infos import Info, stack, stack_final

Env = gym.Env[Any, Any]


class InTurnVectorEnv(SyncVectorEnv):
    """A `SyncVectorEnv` with SAME_STEP autoreset.

    Infos may differ in kind and shape, and nothing is copied that is new anyway.

    :param env_fns: build the environments
    """

    envs: list[Any]

    def __init__(self, env_fns: Sequence[Callable[[], Env]]) -> None:
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)
        # Gymnasium writes the mode into a dict that all environments of a class share.
        self.metadata = {**self.metadata}

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment.

        :param seed: of the first, one more for each next one; or one for each
        """
        seeds = seed_of_each(seed, self.num_envs)
        each = zip(self.envs, seeds, strict=True)
        results = [env.reset(seed=own, options=options) for env, own in each]
        infos = {row: info for row, (_, info) in enumerate(results) if info}
        return self._batch([obs for obs, _ in results]), stack(infos, self.num_envs)

    def step(  # type: ignore[override]  # Gymnasium's own returns type variables that it never binds
        self, actions: Any
    ) -> StepResult:
        """Step each environment with its action, of shape (num_envs, ...)."""
        observations, infos, finals = [], dict[int, Info](), dict[int, tuple[Any, Info]]()
        rewards, flags = np.zeros(self.num_envs), np.zeros((2, self.num_envs), np.bool_)
        each = zip(self.envs, iterate(self.action_space, actions), strict=True)
        for row, (env, action) in enumerate(each):
            obs, rewards[row], terminated, truncated, info = env.step(action)
            if terminated or truncated:
                flags[:, row] = terminated, truncated
                finals[row] = obs, info
                obs, info = env.reset()
            observations.append(obs)
            if info:
                infos[row] = info
        stacked = stack(infos, self.num_envs) if infos else {}
        if finals:
            stacked |= stack_final(finals, self.num_envs)
        return self._batch(observations), rewards, flags[0], flags[1], stacked

    def _batch(self, observations: Sequence[Any]) -> Any:
        space = self.single_observation_space
        return concatenate(space, observations, create_empty_array(space, self.num_envs))


def envs_of_task(task: Task, num_envs: int, render_mode: str | None) -> InTurnVectorEnv:
    """Return so many environments of a task."""
    return InTurnVectorEnv([functools.partial(_checked, task, render_mode)] * num_envs)


def _checked(task: Task, render_mode: str | None) -> CheckedTask:
    return CheckedTask(task.make(render_mode))


def states_of(vector: SyncVectorEnv) -> list[Any] | None:
    """Return the state of each environment; None if one has none to give."""
    states = [snapshot(env) for env in vector.envs]
    return None if any(state is None for state in states) else states


def restore_states(vector: SyncVectorEnv, states: Sequence[Any]) -> None:
    """Bring each environment into a state."""
    vector.envs[:] = [restore(*each) for each in zip(vector.envs, states, strict=True)]


class MultiTaskSyncVectorEnv(InTurnVectorEnv):
    """`MultiTaskEnv`s side by side, each with a schedule of its own, with SAME_STEP autoreset.

    :param env_fns: build the environments; each must be a `MultiTaskEnv`
    """

    def __init__(self, env_fns: Sequence[Callable[[], MultiTaskEnv]]) -> None:
        super().__init__(env_fns)
        self.task_names = self.envs[0].task_names
        self.num_tasks = len(self.task_names)

    def __repr__(self) -> str:
        return (
            f"MultiTaskSyncVectorEnv({self.num_envs} x MultiTaskEnv, {self.envs[0].schedule!r}: "
            f"{', '.join(self.task_names)})"
        )

    def set_task(self, task: int | str | None, indices: Sequence[int] | None = None) -> None:
        """Play this task from each slot's next reset on; None: as scheduled.

        :param indices: the slots meant; None: all
        """
        for index in range(self.num_envs) if indices is None else indices:
            self.envs[index].set_task(task)

    def get_task(self) -> np.ndarray:
        """Return the index of the task that each slot is playing, (num_envs,)."""
        return np.array([env.get_task() for env in self.envs])

    def action_masks(self) -> np.ndarray:
        """Return which actions each slot's task has, (num_envs, num_actions)."""
        return np.stack([env.action_masks() for env in self.envs])

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on; `"exact"` is False if a task can't be restored."""
        states = [env.state_dict() for env in self.envs]
        return {"envs": states, "exact": all(state["exact"] for state in states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of as many slots.

        :raises ValueError: if it is of another number of slots, or of other tasks
        """
        for env, saved in zip(self.envs, state["envs"], strict=True):
            env.load_state_dict(saved)
