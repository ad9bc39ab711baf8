"""A rollout buffer on the training device, and advantages normalized by task.

Shapes: T steps, E environments, K tasks.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from torch import Tensor

from sb3_moe.vec_env.observations import allocate, map_observation, write, write_row
from sb3_moe.vec_env.task_ids import TaskIds


class DeviceRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer with observations and actions kept on the device, for PPO, A2C and TRPO.

    SB3's own gathers each minibatch in numpy and copies it from the host. Here each step is copied
    once and minibatches are gathered on the device: the same content, in the same order for the
    same seed. Values, rewards and advantages are one number per step; they stay in numpy for SB3's
    own arithmetic and are then copied together. Takes Dict observations too.

    :param args: as in SB3's RolloutBuffer
    """

    observations: Any  # (n_steps, n_envs, ...) tensor, or a dict of them
    actions: Any  # (n_steps, n_envs, action_dim) float tensor

    def reset(self) -> None:
        """Start an empty rollout; the tensors are allocated once."""
        steps = (self.buffer_size, self.n_envs)
        if not hasattr(self, "observations"):
            self.observations = allocate(self.observation_space, steps, self.device)
            self.actions = th.zeros((*steps, self.action_dim), device=self.device)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, np.zeros(steps, np.float32))
        self.generator_ready = False
        BaseBuffer.reset(self)

    def add(
        self,
        obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Keep one step of every environment.

        :param obs: (n_envs, ...) array, or a dict of them
        :param action: (n_envs, ...)
        :param reward: (n_envs,)
        :param episode_start: (n_envs,) whether ``obs`` is an episode's first
        :param value: (n_envs, 1) estimates for ``obs``
        :param log_prob: (n_envs,) of the actions
        """
        step = self.pos
        write_row(self.observations, step, obs)
        write(self.actions[step], action)
        self.rewards[step] = reward
        self.episode_starts[step] = episode_start
        # One copy from the device for both.
        both = th.stack([value.flatten(), log_prob.flatten()]).cpu().numpy()
        self.values[step], self.log_probs[step] = both
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Yield minibatches in a random order.

        :param batch_size: samples in each; None: all in one
        """
        assert self.full, "get() needs a full rollout"
        size = self.buffer_size * self.n_envs
        order = th.from_numpy(np.random.permutation(size)).to(self.device)
        if not self.generator_ready:
            self._finish()
        for indices in order.split(batch_size or size):
            yield self._get_samples(indices)

    def _finish(self) -> None:
        """Bring the finished rollout into SB3's order: environment by environment."""
        for name in ("values", "log_probs", "advantages", "returns"):
            setattr(self, name, self.swap_and_flatten(getattr(self, name)))
        rows = (self.values, self.log_probs, self.advantages, self.returns)
        scalars = np.stack([row[:, 0] for row in rows])
        self._scalars = th.from_numpy(scalars).to(self.device)
        self._flat_observations = map_observation(_environment_by_environment, self.observations)
        self._flat_actions = _environment_by_environment(self.actions)
        self.generator_ready = True

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        # RolloutBuffer's `env` is for replay buffers: on-policy data is stored normalized.
        observations = map_observation(
            lambda x: x.index_select(0, batch_inds), self._flat_observations
        )
        actions = self._flat_actions.index_select(0, batch_inds)
        scalars = self._scalars.index_select(1, batch_inds).unbind(0)
        is_dict = isinstance(self.observation_space, spaces.Dict)
        samples = DictRolloutBufferSamples if is_dict else RolloutBufferSamples
        return samples(observations, actions, *scalars)


def _environment_by_environment(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).flatten(0, 1)


def tasks_of(buffer: RolloutBuffer, task_ids: TaskIds) -> np.ndarray:
    """Return the task of each step of a full rollout, (T, E).

    :param buffer: any rollout buffer of SB3 or sb3-contrib
    :param task_ids: reads the tasks from observations
    """
    ids = task_ids(buffer.observations)
    array = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    return array.reshape(buffer.buffer_size, buffer.n_envs)


def normalized_by_task(advantages_TE: np.ndarray, tasks_TE: np.ndarray) -> np.ndarray:
    """Return advantages with mean 0 and standard deviation 1 within each task, in their dtype.

    :param advantages_TE: (T, E)
    :param tasks_TE: (T, E) the task of each
    """
    normalized = np.empty_like(advantages_TE)
    for task in np.unique(tasks_TE):
        rows = tasks_TE == task
        own = advantages_TE[rows]
        # torch's `std`, which SB3 uses, also has ddof=1.
        deviation = own.std(ddof=1) if own.size > 1 else 0.0
        normalized[rows] = (own - own.mean()) / (deviation + 1e-8)
    return normalized
