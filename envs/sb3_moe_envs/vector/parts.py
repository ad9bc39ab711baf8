"""The vector environments of all tasks: built when needed, stepped together, checked."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

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
from sb3_moe_envs.vector.infos import Info, unstack
from sb3_moe_envs.vector.sync import InTurnVectorEnv, envs_of_task, restore_states, states_of
from sb3_moe_envs.vector.workers import Workers, WorkerVectorEnv

Vector = VectorEnv[Any, Any, Any]

# They check each environment's results themselves.
_CHECKED = (InTurnVectorEnv, WorkerVectorEnv)
# Arguments of `gymnasium.make`, which the environments don't take.
_OF_GYMNASIUM = {"max_episode_steps", "disable_env_checker"}


class Part(NamedTuple):
    """Environments of a task that step together, and the slots of the whole that they play."""

    task: int
    #: how many environments the task has in all, and how many of them are in parts before
    size: int
    offset: int
    #: a slice where they are next to each other, else an array
    rows: Any
    slots: list[int]
    #: a vector environment
    env: Any
    #: whether its step begins and ends with a call each, so that others can step meanwhile
    begins: bool


class Step(NamedTuple):
    """The results of a step of all parts; infos are by slot."""

    observations: list[tuple[int, Any, Any]]
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: dict[int, Info]
    finals: dict[int, tuple[int, Any, Info]]


class Pool:
    """The environments of each task and number of environments: one vector, or one per process.

    If a task misbehaves, all are closed and the error names it.

    :param tasks: the tasks
    :param vectorization: `"sync"` or `"async"`, for tasks without a vector environment of their own
    :param render_mode: passed on to the tasks
    """

    def __init__(self, tasks: Sequence[Task], vectorization: str, render_mode: str | None) -> None:
        self.tasks, self.render_mode = tasks, render_mode
        self._in_workers = vectorization == "async"
        self._envs: dict[tuple[int, int], list[Vector]] = {}
        self._workers = Workers(functools.partial(_envs_of_one, tuple(tasks), render_mode))

    def envs(self, task: int, size: int) -> list[Vector]:
        """Return a task's vector environments, of `size` environments together.

        :raises ValueError: if they can't be built
        """
        if (task, size) not in self._envs:
            self._envs[task, size] = built(self.tasks[task], task, lambda: self._make(task, size))
        return self._envs[task, size]

    def _make(self, index: int, size: int) -> list[Vector]:
        task = self.tasks[index]
        if task.vector_fn is not None:
            return [_checked(task.vector_fn(size), size)]
        if task.env_id is not None and is_batched(task):
            mode = {} if self.render_mode is None else {"render_mode": self.render_mode}
            return [gym.make_vec(task.env_id, size, **{**task.kwargs, **mode})]
        if self._in_workers:
            return self._workers.envs(index, size)
        return [envs_of_task(task, size, self.render_mode)]

    def arrange(self, tasks_B: np.ndarray) -> list[Part]:
        """Return the parts that play these tasks, one task per slot; first those of this process.

        :raises ValueError: if an environment can't be built
        """
        parts = []
        for task in np.unique(tasks_B).tolist():
            slots, offset = np.flatnonzero(tasks_B == task), 0
            for env in self.envs(task, len(slots)):
                own = slots[offset : offset + env.num_envs]
                first, last = int(own[0]), int(own[-1])
                rows = slice(first, last + 1) if last - first + 1 == len(own) else own
                begins = hasattr(env, "step_async")
                parts.append(Part(task, len(slots), offset, rows, own.tolist(), env, begins))
                offset += env.num_envs
        return sorted(parts, key=lambda part: part.begins)

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
            if part.begins:
                self._call(part, part.env.step_async, own)
        self._workers.play()
        for part, own in zip(parts, actions, strict=True):
            obs, rewards, terminated, truncated, infos, finals = self._call(
                part, _finish, part, own
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
        """Return states by task and number of environments, None where one has none to give.

        It is a list for each environment, or of one for a vector environment that has its own.
        """
        found = {key: [_states_of(env) for env in envs] for key, envs in self._envs.items()}
        return {
            key: None if None in states else [one for own in states if own for one in own]
            for key, states in found.items()
        }

    def load_state_dict(self, state: dict[tuple[int, int], Any]) -> None:
        """Go on from a state; an environment without one is left as it is."""
        for key, saved in state.items():
            states = list(saved or ())
            for env in self.envs(*key) if saved is not None else ():
                _restore(env, states)

    def close(self) -> None:
        """Close all environments."""
        close_all([*self._vectors(), self._workers])

    def abandon(self) -> None:
        """Close all after an error, which is raised whatever closing raises."""
        for env in self._vectors():
            at_once = {"terminate": True} if isinstance(env.unwrapped, AsyncVectorEnv) else {}
            with suppress(Exception):
                env.close(**at_once)
        with suppress(Exception):
            self._workers.close(terminate=True)

    def _vectors(self) -> list[Vector]:
        return [env for envs in self._envs.values() for env in envs]

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
    if mode is not AutoresetMode.SAME_STEP or env.num_envs != num_envs:
        env.close()
        raise ValueError(
            f"`vector_fn` must build num_envs={num_envs} environments that reset in the same step "
            f"(autoreset_mode SAME_STEP), got {env.num_envs} with {mode}"
        )
    return env


def _reset(env: Vector, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Any]:
    obs, infos = env.reset(seed=seed, options=options)
    if not isinstance(env, _CHECKED):
        require_observation(env.single_observation_space, obs, (env.num_envs,))
    return _kept(env, obs), unstack(infos, env.num_envs)


def _kept(env: Vector, obs: Any) -> Any:
    """Return observations that no later step changes: somebody's own may always use one array."""
    base: Any = env.unwrapped
    gymnasiums = isinstance(base, SyncVectorEnv | AsyncVectorEnv) and base.copy
    known = gymnasiums or isinstance(base, BatchedVectorEnv | WorkerVectorEnv)
    return obs if known else copy.deepcopy(obs)


def _finish(part: Part, actions: Any) -> tuple[Any, ...]:
    """End a step; return its results, infos by row, and what ended episodes showed last."""
    env = part.env
    result = env.step_wait() if part.begins else env.step(actions)
    obs, rewards, terminated, truncated, infos = result
    if not isinstance(env, _CHECKED):
        obs = _kept(env, obs)
        require_step_of_all(env.single_observation_space, env.num_envs, obs, rewards)
    if not infos:
        return obs, rewards, terminated, truncated, {}, {}
    last = unstack(infos.get("final_info") or {}, env.num_envs)
    finals = {
        row: (_kept(env, row_of(infos["final_obs"], row)), last.get(row, {}))
        for row in np.flatnonzero(terminated | truncated).tolist()
    }
    return obs, rewards, terminated, truncated, unstack(infos, env.num_envs), finals


def _states_of(env: Vector) -> list[Any] | None:
    own: Any = env.unwrapped
    while isinstance(env, VectorWrapper):
        if not isinstance(env, ConflictingVectorEnv):
            return None  # it may have a state of its own, such as running statistics
        env = env.env
    if gives_state(own):
        state = own_state(own)
        return None if state is None else [state]
    if isinstance(own, WorkerVectorEnv):
        return cast("list[Any] | None", own.ask(states_of))
    return states_of(own) if isinstance(own, SyncVectorEnv) else None


def _restore(env: Any, states: list[Any]) -> None:
    """Bring a vector environment into the first of the states, and take these off the list."""
    own = env.unwrapped
    if gives_state(own):
        own.load_state_dict(states.pop(0))
        return
    first = [states.pop(0) for _ in range(own.num_envs)]
    if isinstance(own, WorkerVectorEnv):
        own.ask(restore_states, first)
    else:
        restore_states(own, first)
