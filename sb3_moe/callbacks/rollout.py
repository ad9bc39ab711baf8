"""Training episodes by task, beside SB3's own averages over all of them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_moe.layers.checks import whole
from sb3_moe.vec_env.evaluating import Successes, success_rate
from sb3_moe.vec_env.tasks import short_names, task_names, tasks_stepped

# What SB3 logs under rollout/ of all tasks at once.
OVER_ALL = ("ep_rew_mean", "ep_len_mean", "success_rate", "exploration_rate")


class TaskRolloutCallback(BaseCallback):
    """Log ``rollout/<task>/ep_rew_mean`` and ``ep_len_mean`` over each task's last episodes.

    And ``success_rate`` where the task reports it: an episode succeeds if any of its steps does.

    :param window: episodes of each task to average over, as SB3's ``stats_window_size``; those of
        the ``learn`` before count where a run goes on
    :param verbose: unused by SB3's loggers
    :raises TypeError: if ``window`` is no int
    :raises ValueError: if it is below 1
    """

    def __init__(self, window: int = 100, verbose: int = 0) -> None:
        super().__init__(verbose)
        whole("window", window)
        self.window = window
        # The observations around the last step: another one stands there after a reset.
        self._seen: tuple[Any, ...] = ()

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Read the tasks' names, and go on with the episodes of the same run."""
        super().init_callback(model)
        env, before = self.training_env, vars(self).get("_of")
        self.task_names = task_names(env)
        self._of = (model, self.task_names, env.num_envs)
        goes_on = self._of == before and model.num_timesteps > 0
        if not goes_on or not any(
            each is not None and model._last_obs is each for each in self._seen
        ):
            # Episodes begin where the environment was reset, or is another one.
            self._successes, self._seen = Successes(env.num_envs), ()
        if goes_on:
            return
        self._ended = False
        self._episodes = [
            deque[tuple[float, float, float]](maxlen=self.window) for _ in self.task_names
        ]

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        # A learn that a callback ends keeps the one before; loops of one's own name it otherwise.
        self._seen = (self.model._last_obs, self.locals.get("new_obs"))
        self._successes.step(infos)
        for i in np.flatnonzero(self.locals["dones"]).tolist():
            (task,), success = tasks_stepped([infos[i]], self.task_names), self._successes.end(i)
            if "episode" in infos[i]:
                episode = infos[i]["episode"]
                self._episodes[task].append((episode["r"], episode["l"], success))
                self._ended = True
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OffPolicyAlgorithm) and not self._ended:
            return  # A rollout may be a step, and what was recorded waits for SB3's next line.
        self._ended = False
        keys = short_names(self.task_names, taken=OVER_ALL)
        for name, episodes in zip(keys, self._episodes, strict=True):
            if episodes:
                rewards, lengths, successes = zip(*episodes, strict=True)
                self.logger.record(f"rollout/{name}/ep_rew_mean", float(np.mean(rewards)))
                self.logger.record(f"rollout/{name}/ep_len_mean", float(np.mean(lengths)))
                rate = success_rate(successes)
                if not np.isnan(rate):
                    self.logger.record(f"rollout/{name}/success_rate", rate)
