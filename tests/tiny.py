"""The smallest environment, for tests to change one thing of."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Steps(gym.Env[Any, Any]):
    """Shows zeros and pays 1 for each step; a subclass says what is otherwise.

    :param length: of an episode; None: that of the class, which by default never ends
    """

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    length: int | None = None

    def __init__(self, length: int | None = None) -> None:
        self.length = length or self.length

    def observe(self) -> Any:
        return np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def reward(self, action: Any) -> float:
        return 1.0

    def info(self) -> dict[str, Any]:
        return {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observe(), self.reward(action), self.steps == self.length, False, self.info()


class Sampled(Steps):
    """Shows what a space draws."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        self.observation_space = observation_space

    def observe(self) -> Any:
        return self.observation_space.sample()
