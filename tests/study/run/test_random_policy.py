"""The level of a random policy, on the scale on which agents are evaluated."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_moe.study.run.random_policy import random_returns


class Lives(gym.Env):
    """Three lives of two steps, worth 10 points each; training is paid 1 for each."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        over = self.steps % 6 == 0
        info = {"score": 60.0 if over else 10.0 * (self.steps % 6), "game_over": over}
        return np.zeros(2, np.float32), 1.0, self.steps % 2 == 0, False, info


def test_whole_games_count_with_their_score():
    gym.register("LivesForTests-v0", Lives)
    try:
        returns = random_returns(["LivesForTests-v0"], 20)["LivesForTests-v0"]
    finally:
        del gym.registry["LivesForTests-v0"]
    assert returns.tolist() == [60.0] * 20
