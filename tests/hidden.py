"""An environment whose tasks nobody names, with its history, small enough to train on in a test."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

LENGTH = 4


class Drift(gym.Env[Any, Any]):
    """A point moves by the action or against it, and the reward is how near it is to 0.

    :param slope: 1 or -1
    :param continuous: whether actions are a Box, or Discrete: left and right
    """

    def __init__(self, slope: float, *, continuous: bool = False) -> None:
        self.slope, self.continuous = slope, continuous
        self.action_space = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(2)
        width = 1 + (1 if continuous else 2) + 2
        self.observation_space = spaces.Dict(
            {
                "obs": spaces.Box(-np.inf, np.inf, (1,)),
                "history": spaces.Box(-np.inf, np.inf, (LENGTH, width)),
            }
        )

    def action_masks(self) -> Any:
        return np.ones(2, bool)

    def _observe(self, action: Any, reward: float) -> dict[str, Any]:
        row = np.concatenate([self.x, action, [reward, 1.0]])
        self.rows = np.concatenate([self.rows[1:], row[None]]).astype(np.float32)
        return {"obs": self.x.astype(np.float32), "history": self.rows}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.normal(size=1), 0
        self.rows = np.zeros(self.observation_space["history"].shape, np.float32)
        return self._observe(np.zeros(self.rows.shape[1] - 3), 0.0), {}

    def step(self, action: Any) -> Any:
        one_hot = action if self.continuous else np.eye(2)[action]
        push = float(action[0]) if self.continuous else 2.0 * action - 1.0
        self.x = self.x + 0.5 * self.slope * push
        self.steps += 1
        reward = -abs(float(self.x[0]))
        return self._observe(one_hot, reward), reward, False, self.steps >= 10, {}


def drifts(*, continuous: bool = False, copies: int = 2) -> VecEnv:
    """Build some environments of each of the two tasks."""
    slopes = [1.0] * copies + [-1.0] * copies
    return DummyVecEnv([lambda s=s: Drift(s, continuous=continuous) for s in slopes])
