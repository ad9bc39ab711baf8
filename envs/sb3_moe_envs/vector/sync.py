"""Environments that are stepped one after the other in this process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from sb3_moe_envs.checks import CheckedTask, Options, ResetResult, Seed, StepResult, seed_of_each
from sb3_moe_envs.multitask import MultiTaskEnv
from sb3_moe_envs.snapshot import restore, snapshot
from sb3_moe_envs.tasks import Task, close_all, closed_on_error
from sb3_moe_envs.vector.infos import Info, stack, stack_final

Env = gym.Env[Any, Any]


class Rows(NamedTuple):
    """The results of a step of several environments, one by one."""

    observations: Sequence[Any]
    rewards: Sequence[Any]
    terminated: Sequence[bool]
    truncated: Sequence[bool]
    #: by row, those that aren't empty
    infos: dict[int, Info]
    #: last observation and info of the episodes that ended, by row
    finals: dict[int, tuple[Any, Info]]


class InTurnVectorEnv(SyncVectorEnv):
    """A `SyncVectorEnv` with SAME_STEP autoreset that builds most environments late.

    Only the first is built at once. Infos may differ in kind and shape, and nothing is copied that
    is new anyway.

    :param env_fns: build the environments
    """

    def __init__(self, env_fns: Sequence[Callable[[], Env]]) -> None:
        self.env_fns: Sequence[Callable[[], Env]] = list(env_fns)
        self.num_envs = len(self.env_fns)
        self._built: list[Env] = []  # first, since closing looks at it
        first = self.env_fns[0]()
        self._built.append(first)
        self.spec, self.render_mode = first.spec, first.render_mode
        self.autoreset_mode = AutoresetMode.SAME_STEP
        self.metadata = {**first.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def envs(self) -> list[Any]:  # type: ignore[override]  # SyncVectorEnv builds all at once
        """All environments, built by now."""
        if not self.are_built:
            with closed_on_error(lambda: close_all(self._built)):
                for build in self.env_fns[len(self._built) :]:
                    self._built.append(build())
        return self._built

    @property
    def are_built(self) -> bool:
        """Whether all environments have been needed."""
        return len(self._built) == self.num_envs

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment.

        :param seed: of the first, one more for each next one; or one for each
        """
        observations, infos = self.reset_rows(seed_of_each(seed, self.num_envs), options)
        return batch_of(self.single_observation_space, observations), stack(infos, self.num_envs)

    def step(  # type: ignore[override]  # Gymnasium's own returns type variables that it never binds
        self, actions: Any
    ) -> StepResult:
        """Step each environment with its action, of shape (num_envs, ...)."""
        self.step_async(actions)
        rows = self.finish_rows()
        infos = stack(rows.infos, self.num_envs) | stack_final(rows.finals, self.num_envs)
        flags = np.array([rows.terminated, rows.truncated], dtype=np.bool_)
        obs = batch_of(self.single_observation_space, rows.observations)
        return obs, np.array(rows.rewards, np.float64), *flags, infos

    def step_async(self, actions: Any) -> None:
        """Keep the actions for :meth:`finish_rows`."""
        self._actions = iterate(self.action_space, actions)

    def finish_rows(self) -> Rows:
        """Step each environment with its action."""
        return self.step_rows(self._actions)

    def reset_rows(
        self, seeds: Sequence[int | None], options: Any
    ) -> tuple[list[Any], dict[int, Info]]:
        """Start an episode in every environment; return observations, and infos by row."""
        each = zip(self.envs, seeds, strict=True)
        results = [env.reset(seed=seed, options=options) for env, seed in each]
        infos = {row: info for row, (_, info) in enumerate(results) if info}
        return [obs for obs, _ in results], infos

    def step_rows(self, actions: Any) -> Rows:
        """Step each environment with one of the actions."""
        each, infos, finals = [], dict[int, Info](), dict[int, tuple[Any, Info]]()
        for row, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            obs, reward, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                finals[row] = obs, info
                obs, info = env.reset()
            if info:
                infos[row] = info
            each.append((obs, reward, terminated, truncated))
        obs, rewards, terminated, truncated = zip(*each, strict=True)
        return Rows(obs, rewards, terminated, truncated, infos, finals)

    def close_extras(self, **kwargs: Any) -> None:
        """Close each environment, also after one whose closing raises."""
        close_all(self._built)


def batch_of(space: gym.Space[Any], items: Sequence[Any]) -> Any:
    """Return single observations or actions of a space as a batch."""
    return concatenate(space, items, create_empty_array(space, len(items)))


def envs_of_task(task: Task, num_envs: int, render_mode: str | None) -> InTurnVectorEnv:
    """Return so many environments of a task."""
    return InTurnVectorEnv([functools.partial(_checked, task, render_mode)] * num_envs)


def _checked(task: Task, render_mode: str | None) -> CheckedTask:
    return CheckedTask(task.make(render_mode))


def states_of(vector: SyncVectorEnv) -> list[Any] | None:
    """Return the state of each environment; None if one has none to give.

    Environments that were never needed have none to keep, so the list is empty.
    """
    if isinstance(vector, InTurnVectorEnv) and not vector.are_built:
        return []
    states = [snapshot(env) for env in vector.envs]
    return None if any(state is None for state in states) else states


def restore_states(vector: SyncVectorEnv, states: Sequence[Any]) -> None:
    """Bring each environment into a state."""
    if states:
        for env, state in zip(vector.envs, states, strict=True):
            restore(env, state)


class MultiTaskSyncVectorEnv(InTurnVectorEnv):
    """`MultiTaskEnv`s side by side, each with a schedule of its own, with SAME_STEP autoreset.

    :param env_fns: build the environments; each must be a `MultiTaskEnv`
    """

    def __init__(self, env_fns: Sequence[Callable[[], MultiTaskEnv]]) -> None:
        super().__init__(env_fns)
        self.task_names = self.envs[0].task_names
        self.num_tasks = self.envs[0].num_tasks

    def __repr__(self) -> str:
        first = self.envs[0]
        return (
            f"MultiTaskSyncVectorEnv({self.num_envs} x MultiTaskEnv, {first.schedule!r}: "
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
