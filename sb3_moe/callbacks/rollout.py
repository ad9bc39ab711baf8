"""Training episodes by task, beside SB3's own averages over all of them."""

from __future__ import annotations

from collections import deque

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_moe.callbacks.pinned_env import task_names


class TaskRolloutCallback(BaseCallback):
    """Log ``rollout/<task>/ep_rew_mean`` and ``ep_len_mean`` over each task's last episodes.

    :param window: episodes of each task to average over, as SB3's ``stats_window_size``
    :param verbose: unused by SB3's loggers
    :raises ValueError: if ``window`` is below 1
    """

    def __init__(self, window: int = 100, verbose: int = 0) -> None:
        super().__init__(verbose)
        if window < 1:
            raise ValueError(f"`window` must be at least 1, got {window}")
        self.window = window

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Read the tasks' names."""
        super().init_callback(model)
        names = task_names(self.training_env)
        self._episodes = {name: deque[tuple[float, float]](maxlen=self.window) for name in names}

    def _on_step(self) -> bool:
        for i in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][i]
            if "episode" in info:
                episode = info["episode"]
                self._episodes[info["task_name"]].append((episode["r"], episode["l"]))
        return True

    def _on_rollout_end(self) -> None:
        for name, episodes in self._episodes.items():
            if episodes:
                rewards, lengths = np.mean(episodes, axis=0)
                self.logger.record(f"rollout/{name}/ep_rew_mean", float(rewards))
                self.logger.record(f"rollout/{name}/ep_len_mean", float(lengths))
