"""A multi-task environment whose every return is known, for callbacks to be tried on."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

NAMES = ("a", "b", "c")


class Toy(gym.Env[Any, Any]):
    """Task k pays 1 for action k and lasts 5 + k steps.

    :param tasks: played one after another, an episode each
    """

    def __init__(self, tasks: tuple[int, ...], names: tuple[str, ...] = NAMES) -> None:
        self.observation_space = spaces.Dict(
            {"obs": spaces.Box(-1, 1, (6,)), "task_id": spaces.Discrete(len(names))}
        )
        self.action_space = spaces.Discrete(3)
        self.task_names = list(names)
        self.num_tasks = len(names)
        self.tasks = tasks
        self.episode = -1
        self.observed = 0

    def get_task(self) -> int:
        return self.tasks[max(self.episode, 0) % len(self.tasks)]

    def _observe(self) -> dict[str, Any]:
        self.observed += 1
        return {
            "obs": self.np_random.uniform(-1, 1, 6).astype(np.float32),
            "task_id": self.get_task(),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.episode += 1
        return self._observe(), {"task_id": self.get_task()}

    def step(self, action: int) -> Any:
        self.steps += 1
        task = self.get_task()
        info = {"task_id": task, "task_name": self.task_names[task], "is_success": action == task}
        return self._observe(), float(action == task), False, self.steps >= 5 + task, info


def toy_vec_env(*tasks: tuple[int, ...], names: tuple[str, ...] = NAMES) -> VecEnv:
    """Build a monitored VecEnv with one copy for each sequence of tasks."""
    return VecMonitor(DummyVecEnv([lambda t=t: Toy(t, names) for t in tasks]))


def pinned() -> VecEnv:
    """Build one copy for each of the three tasks."""
    return toy_vec_env((0,), (1,), (2,))
