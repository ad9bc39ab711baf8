"""A replay buffer that brings the returns of all tasks to one scale (BRC, arXiv 2505.23150)."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_moe.vec_env.replay_buffers import MultiTaskReplayBuffer


class ReturnScaledReplayBuffer(MultiTaskReplayBuffer):
    """Divide rewards, when they are drawn, by what their task's returns come to.

    The divisor is the largest abs(G) / ``scale``, where G is the discounted return of each finished
    episode of the task. An episode that a time limit has cut goes on with its mean reward. Until a
    task's first episode ends its rewards stay as they are. BRC adds what entropy may bring, which
    is left out here.

    :param args: as of :class:`~sb3_moe.vec_env.MultiTaskReplayBuffer`
    :param gamma: discount factor of the returns: the algorithm's own
    :param scale: the largest return that is given out (v_max)
    :param kwargs: as of MultiTaskReplayBuffer
    :raises ValueError: if a value is out of range
    """

    def __init__(self, *args: Any, gamma: float = 0.99, scale: float = 10.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0.0 < gamma < 1.0:
            raise ValueError(f"`gamma` must be in (0, 1), got {gamma}")
        if not scale > 0.0:
            raise ValueError(f"`scale` must be greater than 0, got {scale}")
        self.gamma, self.scale = gamma, scale
        #: Largest abs(G) by task.
        self.largest: dict[int, float] = {}
        self._return_n, self._sum_n, self._steps_n = np.zeros((3, self.n_envs))

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep one transition of every environment, and the returns of episodes that end."""
        super().add(obs, next_obs, action, reward, done, infos)
        self._return_n += self.gamma**self._steps_n * reward
        self._sum_n += reward
        self._steps_n += 1
        for i in np.flatnonzero(done):
            total = self._return_n[i]
            if infos[i].get("TimeLimit.truncated", False):
                mean = self._sum_n[i] / self._steps_n[i]
                total += self.gamma ** self._steps_n[i] * mean / (1.0 - self.gamma)
            task = int(infos[i]["task_id"])
            self.largest[task] = max(self.largest.get(task, 0.0), abs(float(total)))
        for each in (self._return_n, self._sum_n, self._steps_n):
            each[np.asarray(done, dtype=bool)] = 0.0

    def _gather(self, flat_indices: np.ndarray, env: Any) -> Any:
        samples = super()._gather(flat_indices, env)
        largest = [self.largest.get(task, 0.0) for task in self.task_ids[flat_indices].tolist()]
        factors = [self.scale / each if each > 0.0 else 1.0 for each in largest]
        rewards = samples.rewards * samples.rewards.new_tensor(factors).unsqueeze(1)
        return samples._replace(rewards=rewards)
