"""A small environment whose every number can be foretold, and that refuses actions it lacks."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_moe_envs import Task


class CountingEnv(gym.Env[np.ndarray, int]):
    """Observe (tag, step, noise, ...); an episode ends at random, after `length` steps at most."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012

    def __init__(
        self, tag: int = 1, size: int = 3, num_actions: int = 2, length: int = 6,
        render_mode: str | None = None,
    ) -> None:  # fmt: skip
        self.tag, self.size, self.length, self.render_mode = tag, size, length, render_mode
        self.observation_space = spaces.Box(-9, 99, (size,), np.float32)
        self.action_space = spaces.Discrete(num_actions)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.options = 0, options
        return self._observe(), {"lives": np.ones(self.tag)}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"an action that this task lacks: {action!r}")
        self.steps += 1
        over = bool(self.np_random.random() < 0.2)
        late = self.steps >= self.length
        reward = self.tag * 10.0 + int(action)
        return self._observe(), reward, over, late and not over, {"is_success": bool(action)}

    def render(self) -> np.ndarray:
        return np.full((4 + self.tag, 8, 3), self.tag, np.uint8)

    def _observe(self) -> np.ndarray:
        obs = np.full(self.size, self.np_random.random(), np.float32)
        obs[0] = self.tag
        if self.size > 1:
            obs[1] = self.steps
        return obs


def counting_tasks(num_tasks: int, **kwargs: Any) -> list[Task]:
    """Tasks that differ in the size of their observations and in their number of actions."""
    return [
        Task(
            f"t{k}",
            env_fn=partial(CountingEnv, tag=k + 1, size=2 + k, num_actions=2 + k % 3, **kwargs),
        )
        for k in range(num_tasks)
    ]
