"""Running mean and variance, one for each task."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd


class PerTaskMeanStd:
    """As many of SB3's running statistics as there are tasks.

    :param num_tasks: how many tasks, at least 1
    :param shape: of one observation (or () for returns)
    """

    def __init__(self, num_tasks: int, shape: tuple[int, ...] = ()) -> None:
        self.shape = shape
        self.tasks = [RunningMeanStd(shape=shape) for _ in range(num_tasks)]
        self._stack()

    def update(self, batch: np.ndarray, task_ids: np.ndarray) -> None:
        """Count each row in its task's statistics.

        :param batch: (n, *shape)
        :param task_ids: (n,)
        """
        for task in np.unique(task_ids):
            self.tasks[task].update(batch[task_ids == task])
        self._stack()

    def of(self, task_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and variance of each id's task.

        :param task_ids: of any shape
        :return: both of shape (*task_ids.shape, *shape)
        """
        return self._means[task_ids], self._variances[task_ids]

    def total(self) -> RunningMeanStd:
        """Return the statistics of all tasks together."""
        total = RunningMeanStd(epsilon=0.0, shape=self.shape)
        for task in self.tasks:
            total.combine(task)
        return total

    def _stack(self) -> None:
        self._means = np.stack([task.mean for task in self.tasks])
        self._variances = np.stack([task.var for task in self.tasks])
