"""A replay buffer that samples tasks in balance and normalises by task."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_moe.buffers.replay import DeviceReplayBuffer
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize


class MultiTaskReplayBuffer(DeviceReplayBuffer):
    """Remember each transition's task; draw every task that is stored equally often.

    The task comes from ``info["task_id"]``. With PerTaskVecNormalize, the rewards and observations
    of a batch are normalised by the statistics of their own tasks, as they are when it is drawn:
    what is stored stays raw, so it never goes stale.

    :param balance: draw tasks equally often; False: each transition, as SB3 does
    :param kwargs: as of :class:`~sb3_moe.buffers.DeviceReplayBuffer`
    :raises ValueError: with ``optimize_memory_usage``
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        balance: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(buffer_size, observation_space, action_space, *args, **kwargs)
        if self.optimize_memory_usage:
            raise ValueError("`optimize_memory_usage` must be False here, got True")
        self.balance = balance
        self.task_ids = np.full(self.buffer_size * self.n_envs, -1, dtype=np.int64)
        self._places = _PlacesByTask(len(self.task_ids))

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep one transition of every environment, and its task.

        :raises ValueError: if an info has no ``task_id``
        """
        first = self.pos * self.n_envs
        for index, info in enumerate(infos, start=first):
            if "task_id" not in info:
                raise ValueError(
                    "MultiTaskReplayBuffer needs info['task_id'], as make_multitask_vec_env and "
                    f"MultiTaskEnv give it, got an info with {sorted(info)}"
                )
            self._places.move(index, int(self.task_ids[index]), int(info["task_id"]))
            self.task_ids[index] = info["task_id"]
        super().add(obs, next_obs, action, reward, done, infos)

    def reset(self) -> None:
        """Forget every transition, and whose it was."""
        super().reset()
        self.task_ids.fill(-1)
        self._places = _PlacesByTask(len(self.task_ids))

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draw a batch.

        :param batch_size: number of transitions
        :param env: the VecNormalize that SB3 found, or None
        """
        if not self.balance:
            return super().sample(batch_size, env)
        return self._gather(self._places.draw(batch_size), env)

    def _normalize(
        self, env: VecNormalize, flat_indices: np.ndarray, obs: Any, next_obs: Any, rewards: Any
    ) -> tuple[Any, Any, Any]:
        if isinstance(env, PerTaskVecNormalize):
            env = env.for_tasks(self.task_ids[flat_indices])
        return super()._normalize(env, flat_indices, obs, next_obs, rewards)


class _PlacesByTask:
    """Where each task's transitions are, so that drawing one takes no search."""

    def __init__(self, capacity: int) -> None:
        self._places: dict[int, np.ndarray] = {}
        self._counts: dict[int, int] = {}
        # rank[i]: where place i stands among its task's places
        self._rank = np.zeros(capacity, dtype=np.int64)

    def move(self, place: int, old_task: int, new_task: int) -> None:
        """Take a place from one task (-1: from none) and give it to another."""
        if old_task == new_task:
            return
        if old_task >= 0:
            self._remove(place, old_task)
        self._append(place, new_task)

    def draw(self, size: int) -> np.ndarray:
        """Draw a task for each of ``size``, each alike, and one of its places."""
        tasks = [task for task, count in self._counts.items() if count]
        chosen = np.random.randint(len(tasks), size=size)
        drawn = np.empty(size, dtype=np.int64)
        for i, task in enumerate(tasks):
            rows = np.flatnonzero(chosen == i)
            ranks = np.random.randint(self._counts[task], size=len(rows))
            drawn[rows] = self._places[task][ranks]
        return drawn

    def _append(self, place: int, task: int) -> None:
        count = self._counts.setdefault(task, 0)
        places = self._places.setdefault(task, np.empty(64, dtype=np.int64))
        if count == len(places):
            places = self._places[task] = np.resize(places, 2 * count)
        places[count] = place
        self._rank[place] = count
        self._counts[task] = count + 1

    def _remove(self, place: int, task: int) -> None:
        last = self._counts[task] - 1
        moved = self._places[task][last]
        self._places[task][self._rank[place]] = moved
        self._rank[moved] = self._rank[place]
        self._counts[task] = last
