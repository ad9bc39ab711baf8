"""Advantages that are normalised among those of their own task, for PPO and its relatives.

Shapes: T steps, E environments, K tasks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_moe.buffers.rollout import DeviceRolloutBuffer
from sb3_moe.layers.checks import whole_or_none
from sb3_moe.observations.task_ids import TaskIds

if TYPE_CHECKING:
    _Buffer = RolloutBuffer
else:
    _Buffer = object


class PerTaskAdvantages(_Buffer):
    """A mixin for a rollout buffer: normalise each task's advantages once a rollout is full.

    A task whose rewards are a thousand times another's then moves the policy no more than that one.
    Each task's advantages get mean 0 and deviation 1, as SB3 gives them to a minibatch; a lone one
    becomes 0. Returns, which the critic learns, stay as they are.

    :param args: as of the buffer
    :param num_tasks: K, where the id is a one-hot at the end of a Box observation, or planes of a
        picture; None: a Dict has it under ``task_id``
    :param kwargs: as of the buffer
    :raises ValueError: if the observation holds no task id
    """

    def __init__(self, *args: Any, num_tasks: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.find_tasks(num_tasks)

    def find_tasks(self, num_tasks: int | None) -> None:
        """Find where observations hold the task id.

        :raises ValueError: if they don't
        """
        whole_or_none("num_tasks", num_tasks)
        self._task_ids = TaskIds(self.observation_space, num_tasks, "normalising by task")

    def tasks(self) -> np.ndarray:
        """Return the task of each step, (T, E)."""
        ids = self._task_ids(self.observations)
        array = ids.cpu().numpy() if isinstance(ids, th.Tensor) else np.asarray(ids)
        return array.reshape(self.buffer_size, self.n_envs)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Compute both as SB3 does, then normalise the advantages by task.

        :param last_values: (E, 1) estimates for the observations after the last step
        :param dones: (E,)
        """
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages = normalised_by_task(self.advantages, self.tasks())


class MultiTaskRolloutBuffer(PerTaskAdvantages, DeviceRolloutBuffer):
    """SB3's rollout buffer, on the training device, with advantages normalised by task.

    For PPO, A2C and TRPO: ``rollout_buffer_class=MultiTaskRolloutBuffer`` with
    ``normalize_advantage=False``; with True PPO normalises each minibatch over all tasks once more,
    whose mean is near 0 and deviation near 1 already. A buffer isn't told which:
    :class:`~sb3_moe.callbacks.TaskAdvantageCallback` warns of it.

    :param args: as SB3's RolloutBuffer; takes Dict observations too
    :param num_tasks: for a Box observation that ends in a one-hot of so many tasks
    """


def normalised_by_task(advantages_TE: np.ndarray, tasks_TE: np.ndarray) -> np.ndarray:
    """Return advantages with mean 0 and deviation 1 within each task, in their dtype.

    :param advantages_TE: (T, E)
    :param tasks_TE: (T, E) the task of each
    """
    normalised = np.empty_like(advantages_TE)
    for task in np.unique(tasks_TE):
        rows = tasks_TE == task
        own = advantages_TE[rows]
        # As torch's, which SB3 uses.
        deviation = own.std(ddof=1) if own.size > 1 else 0.0
        normalised[rows] = (own - own.mean()) / (deviation + 1e-8)
    return normalised


@functools.cache
def per_task(kind: type[RolloutBuffer]) -> type[RolloutBuffer]:
    """Return a kind of rollout buffer whose advantages are normalised by task.

    :param kind: any of SB3's or sb3-contrib's
    """
    if issubclass(kind, PerTaskAdvantages):
        return kind
    return type(f"MultiTask{kind.__name__}", (PerTaskAdvantages, kind), {})
