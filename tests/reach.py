"""The smallest environment in the form that HER asks for."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Reach(gym.Env[Any, Any]):
    """Move a point to a goal, with eight steps to do so.

    :param dim: of the place and the goal
    :param radius: how near is there
    :param discrete: steps of 0.2 to and fro along the first axis, for algorithms of choices
    """

    def __init__(self, dim: int = 2, radius: float = 0.2, discrete: bool = False) -> None:
        self.radius, self.discrete = radius, discrete
        place = spaces.Box(-1, 1, (dim,), np.float32)
        parts = dict.fromkeys(("observation", "achieved_goal", "desired_goal"), place)
        self.observation_space = spaces.Dict(parts)
        self.action_space = (
            spaces.Discrete(4) if discrete else spaces.Box(-1, 1, (dim,), np.float32)
        )

    def observe(self) -> dict[str, Any]:
        return {"observation": self.at, "achieved_goal": self.at, "desired_goal": self.goal}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        shape = self.observation_space["observation"].shape
        self.at, self.goal = self.np_random.uniform(-1, 1, (2, *shape)).astype(np.float32)
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        moved = 0.1 * (2 * (int(action) % 2) - 1) if self.discrete else 0.1 * action
        self.at = np.clip(self.at + moved, -1, 1).astype(np.float32)
        reward = self.compute_reward(self.at, self.goal, {}).item()
        return self.observe(), reward, False, self.steps >= 8, {}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -(np.linalg.norm(achieved - desired, axis=-1) > self.radius).astype(np.float32)
