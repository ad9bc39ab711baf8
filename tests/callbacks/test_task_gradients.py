"""Gradients by task, measured with the loss of the algorithm that trains."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from toy import pinned

from sb3_moe.callbacks import TaskGradientCallback


@pytest.mark.parametrize("algo", [TRPO, MaskablePPO, RecurrentPPO])
def test_an_algorithm_with_another_loss_is_refused_by_name(algo):
    policy = "MultiInputLstmPolicy" if algo is RecurrentPPO else "MultiInputPolicy"
    model = algo(policy, pinned(), n_steps=8, batch_size=24, device="cpu")
    message = f"must have PPO's or A2C's loss and no memory, got {algo.__name__}"
    with pytest.raises(ValueError, match=message):
        TaskGradientCallback(24).init_callback(model)


class Switches(gym.Env):
    """Three switches to set, and nothing to see."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.MultiBinary(3)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action.sum()), False, True, {}


@pytest.mark.parametrize("algo", [PPO, A2C])
def test_actions_of_yes_and_no_are_measured_too(algo):
    callback = TaskGradientCallback(64)
    algo("MlpPolicy", Switches(), n_steps=64, device="cpu", seed=0).learn(64, callback=callback)
    norms = [value for name, value in callback.record.rows.items() if "norm" in name]
    assert norms
    assert np.isfinite(norms).any()
