"""The vector environments of all tasks: built when needed, stepped together, checked."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from sb3_moe_envs.checks import require_observation, require_step_of_all
from sb3_moe_envs.coordinates import ConflictingVectorEnv
from sb3_moe_envs.methods import ACTION_MASKS, method_of, results_of_all
from sb3_moe_envs.snapshot import gives_state, own_state
from sb3_moe_envs.spaces.observations import row_of
from sb3_moe_envs.tasks import Task, TaskError, built, called, close_all
from sb3_moe_envs.vector.batched import BatchedVectorEnv
from sb3_moe_envs.vector.infos import FINAL, Info, unstack
from sb3_moe_envs.vector.sync import (
    InTurnVectorEnv,
    batch_of,
    envs_of_task,
    restore_states,
    states_of,
)
from sb3_moe_envs.vector.workers import Workers, WorkerVectorEnv

Vector = VectorEnv[Any, Any, Any]

# They give their results row by row, and have checked them.
_OURS = (InTurnVectorEnv, WorkerVectorEnv)
# Arguments of `gymnasium.make`, which the environments don't take.
_OF_GYMNASIUM = {"max_episode_steps", "disable_env_checker"}


class Part(NamedTuple):
    """A task's vector environment, and the slots of the whole that it plays."""

    task: int
    #: a slice where they are next to each other, else an array
    rows: Any
    slots: list[int]
    env: Vector


class Step(NamedTuple):
    """The results of a step of all parts; infos are by slot."""

    observations: list[tuple[int, Any, Any]]
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: dict[int, Info]
    finals: dict[int, tuple[int, Any, Info]]


class Pool:
    """One vector environment per task and number of environments.

    If a task misbehaves, all are closed and the error names it.

    :param tasks: the tasks
    :param vectorization: `"sync"` or `"async"`, for tasks without a vector environment of their own
    :param render_mode: passed on to the tasks
    """

    def __init__(self, tasks: Sequence[Task], vectorization: str, render_mode: str | None) -> None:
        self.tasks, self.render_mode = tasks, render_mode
        self._in_workers = vectorization == "async"
        self._envs: dict[tuple[int, int], Vector] = {}
        self._workers = Workers(functools.partial(_envs_of_one, tuple(tasks), render_mode))

    def env(self, task: int, size: int) -> Vector:
        """Return a task's vector environment of `size` environments.

        :raises ValueError: if it can't be built
        """
        if (task, size) not in self._envs:
            self._envs[task, size] = built(self.tasks[task], task, lambda: self._make(task, size))
        return self._envs[task, size]

    def _make(self, index: int, size: int) -> Vector:
        task = self.tasks[index]
        if task.vector_fn is not None:
            return _checked(task.vector_fn(size), size)
        if task.env_id is not None and is_batched(task):
            mode = {} if self.render_mode is None else {"render_mode": self.render_mode}
            return gym.make_vec(task.env_id, size, **{**task.kwargs, **mode})
        if self._in_workers:
            return WorkerVectorEnv(self._workers, index, size)
        return envs_of_task(task, size, self.render_mode)

    def arrange(self, tasks_B: np.ndarray) -> list[Part]:
        """Return the parts that play these tasks, one task per slot.

        :raises ValueError: if an environment can't be built
        """
        parts = []
        for task in np.unique(tasks_B).tolist():
            slots = np.flatnonzero(tasks_B == task)
            first, last = int(slots[0]), int(slots[-1])
            rows = slice(first, last + 1) if last - first + 1 == len(slots) else slots
            env = self.env(task, len(slots))
            parts.append(Part(task, rows, slots.tolist(), env))
            if isinstance(env, InTurnVectorEnv):
                built(self.tasks[task], task, functools.partial(getattr, env, "envs"))
        return parts

    def reset(
        self, parts: Sequence[Part], seeds: Sequence[int | None], options: dict[str, Any] | None
    ) -> tuple[list[tuple[int, Any, Any]], dict[int, Info]]:
        """Start an episode in every slot of parts; return observations and infos by slot."""
        observations, infos = [], dict[int, Info]()
        for part, seed in zip(parts, seeds, strict=True):
            obs, own = self._call(part, _reset, part.env, seed, options)
            observations.append((part.task, part.rows, obs))
            infos |= {part.slots[row]: info for row, info in own.items()}
        return observations, infos

    def step(self, parts: Sequence[Part], actions: Sequence[Any]) -> Step:
        """Step parts at the same time, each with its own actions."""
        num_slots = sum(len(part.slots) for part in parts)
        flags = np.zeros((2, num_slots), np.bool_)
        step = Step([], np.zeros(num_slots), flags[0], flags[1], {}, {})
        for part, own in zip(parts, actions, strict=True):
            if hasattr(part.env, "step_async"):
                self._call(part, part.env.step_async, own)
        for part, own in zip(parts, actions, strict=True):
            obs, rewards, terminated, truncated, infos, finals = self._call(
                part, _finish, part.env, own
            )
            step.observations.append((part.task, part.rows, obs))
            step.rewards[part.rows] = rewards
            step.terminated[part.rows] = terminated
            step.truncated[part.rows] = truncated
            for row, info in infos.items():
                step.infos[part.slots[row]] = info
            for row, final in finals.items():
                step.finals[part.slots[row]] = (part.task, *final)
        return step

    def own_masks(self, part: Part, spread: Callable[..., Any]) -> Any:
        """Return the action masks that a task gives itself, a row for each slot; None: it has none.

        :param spread: brings them into the common space, from the task, masks and (num_envs,)
        """

        def masks() -> Any:
            # Wrappers and vector environments may have masks for all, or each environment its own.
            method = method_of(part.env, ACTION_MASKS)
            own = method() if method else results_of_all(part.env, ACTION_MASKS)
            return None if own is None else spread(part.task, np.asarray(own), (part.env.num_envs,))

        return self._call(part, masks)

    def state_dict(self) -> dict[tuple[int, int], Any]:
        """Return each environment's state by task and size, None for one that has none to give."""
        return {key: _state_of(env) for key, env in self._envs.items()}

    def load_state_dict(self, state: dict[tuple[int, int], Any]) -> None:
        """Go on from a state; an environment without one is left as it is."""
        for key, saved in state.items():
            if saved is not None:
                own: Any = self.env(*key).unwrapped
                if hasattr(own, "load_state_dict"):
                    own.load_state_dict(saved)
                else:
                    restore_states(own, saved)

    def close(self) -> None:
        """Close all environments."""
        close_all([*self._envs.values(), self._workers])

    def abandon(self) -> None:
        """Close all after an error, which is raised whatever closing raises."""
        for env in self._envs.values():
            at_once = {"terminate": True} if isinstance(env.unwrapped, AsyncVectorEnv) else {}
            # Once more for Gymnasium's processes: the first raises the error of their step again.
            for _ in range(2):
                with suppress(Exception):
                    env.close(**at_once)
        with suppress(Exception):
            self._workers.close(terminate=True)

    def _call(self, part: Part, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return called(self.tasks[part.task], part.task, function, *args)
        except TaskError:
            self.abandon()
            raise


def _envs_of_one(
    tasks: Sequence[Task], render_mode: str | None, task: int, num_envs: int
) -> InTurnVectorEnv:
    return envs_of_task(tasks[task], num_envs, render_mode)


def is_batched(task: Task) -> bool:
    """Return whether a task has a vector environment of its own, which steps all at once.

    Arguments that only `gymnasium.make` takes, such as a limit of steps, need single environments.
    """
    if task.vector_fn is not None:
        return True
    spec = gym.registry.get((task.env_id or "").rpartition(":")[2])
    if spec is None or spec.namespace != "SB3MoE" or spec.vector_entry_point is None:
        return False
    return not _OF_GYMNASIUM & set(task.kwargs)


def _checked(env: Vector, num_envs: int) -> Vector:
    """Return what `vector_fn` gave, or raise ValueError if it would mislead."""
    base: Any = env.unwrapped
    mode = getattr(base, "autoreset_mode", env.metadata.get("autoreset_mode"))
    problem = None
    if mode is not AutoresetMode.SAME_STEP:
        problem = f"reset in the same step (autoreset_mode SAME_STEP), got {mode}"
    elif env.num_envs != num_envs:
        problem = f"build num_envs={num_envs} environments, got {env.num_envs}"
    elif getattr(base, "copy", True) is False:
        # The next step would write over observations that were handed out.
        problem = "give new observations at each step (copy=True), got copy=False"
    if problem:
        env.close()
        raise ValueError(f"`vector_fn` must {problem}")
    return env


def _reset(env: Any, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Any]:
    obs, infos = env.reset(seed=seed, options=options)
    require_observation(env.single_observation_space, obs, (env.num_envs,))
    return _kept(env, obs), unstack(infos, env.num_envs)


def _kept(env: Vector, obs: Any) -> Any:
    """Return observations that no later step changes: somebody's own may always use one array."""
    known = isinstance(env.unwrapped, BatchedVectorEnv | SyncVectorEnv | AsyncVectorEnv)
    return obs if known else copy.deepcopy(obs)


def _finish(env: Any, actions: Any) -> tuple[Any, ...]:
    """End the step of a vector environment; return its results, with infos by row."""
    if isinstance(env, _OURS):
        observations, *rest = env.finish_rows()
        return batch_of(env.single_observation_space, observations), *rest
    result = env.step_wait() if hasattr(env, "step_wait") else env.step(actions)
    obs, rewards, terminated, truncated, infos = result
    obs = _kept(env, obs)
    require_step_of_all(env.single_observation_space, env.num_envs, obs, rewards)
    last = unstack(infos.get("final_info") or {}, env.num_envs)
    finals = {
        row: (row_of(infos["final_obs"], row), last.get(row, {}))
        for row in np.flatnonzero(terminated | truncated).tolist()
    }
    others = {key: value for key, value in infos.items() if key not in FINAL}
    return obs, rewards, terminated, truncated, unstack(others, env.num_envs), finals


def _state_of(env: Vector) -> Any:
    own: Any = env.unwrapped
    while isinstance(env, VectorWrapper):
        if not isinstance(env, ConflictingVectorEnv):
            return None  # it may have a state of its own, such as running statistics
        env = env.env
    if gives_state(own):
        return own_state(own)
    return states_of(own) if isinstance(own, SyncVectorEnv) else None
