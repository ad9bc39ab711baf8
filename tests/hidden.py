"""An environment whose tasks nobody names, with a belief, small enough to train on in a test."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_moe.vec_env import VecBelief


class Drift(gym.Env[Any, Any]):
    """A point moves by the action or against it, and the reward is how near it is to 0.

    :param slope: 1 or -1
    :param continuous: whether actions are a Box, or Discrete: left and right
    """

    observation_space = spaces.Box(-np.inf, np.inf, (1,))

    def __init__(self, slope: float = 1.0, *, continuous: bool = False) -> None:
        self.slope, self.continuous = slope, continuous
        self.action_space = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(2)

    def action_masks(self) -> Any:
        return np.ones(2, bool)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.normal(size=1), 0
        return self.x.astype(np.float32), {}

    def step(self, action: Any) -> Any:
        push = float(action[0]) if self.continuous else 2.0 * action - 1.0
        self.x = self.x + 0.5 * self.slope * push
        self.steps += 1
        reward = -abs(float(self.x[0]))
        return self.x.astype(np.float32), reward, False, self.steps >= 10, {}


def hidden_tasks(*, continuous: bool = False, copies: int = 2) -> VecEnv:
    """Build some environments of each of the two tasks."""
    slopes = [1.0] * copies + [-1.0] * copies
    return DummyVecEnv([lambda s=s: Drift(s, continuous=continuous) for s in slopes])


def drifts(*, continuous: bool = False, copies: int = 2, **options: Any) -> VecBelief:
    """Build these with a belief of three models.

    :param options: of VecBelief
    """
    return VecBelief(
        hidden_tasks(continuous=continuous, copies=copies),
        **{"num_models": 3, "train_freq": 8, "seed": 0, **options},
    )
