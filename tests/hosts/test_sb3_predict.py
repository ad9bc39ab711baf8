"""Actions for whatever an environment shows, as in SB3's ``test_predict``."""

import arena
import asked
import guests
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv


class OwnBox(spaces.Box):
    """A Box by another name."""


@asked.over("predict")
def test_it_predicts_for_one_observation_and_for_several(algorithm, placement):
    env = arena.default_env(algorithm, "MoeMlpPolicy")
    model = guests.make(algorithm, placement, env=env)
    assert isinstance(model.get_env(), VecEnv)
    obs, _ = env.reset()
    for deterministic in (True, False):
        action, _ = model.predict(obs, deterministic=deterministic)
        assert isinstance(action, np.ndarray)
        assert env.action_space.contains(action)
    several = DummyVecEnv([lambda: arena.default_env(algorithm, "MoeMlpPolicy")] * 2).reset()
    assert model.predict(several)[0].shape == (2, *env.action_space.shape)


SEEN = {"vector": arena.FLAT, "number": spaces.Discrete(6)}


@asked.over("guesses", ["DQN"], space=SEEN)
def test_dqn_guesses_for_one_observation_and_for_several(algorithm, placement, space):
    model = guests.make(algorithm, placement, env=arena.Arena(space))
    model.exploration_rate = 1.0
    obs = space.sample()
    assert {int(model.predict(obs)[0]) for _ in range(100)} == {0, 1, 2, 3}
    assert model.predict(np.stack([obs, obs]))[0].shape == (2,)


@asked.over("own space", ["A2C", "PPO", "SAC", "TD3"])
def test_it_takes_subclasses_of_spaces(algorithm, placement):
    box = OwnBox(-1, 1, (2,), np.float32)
    model = arena.train(guests.make(algorithm, placement, env=arena.Arena(box, box)))
    assert box.contains(model.predict(box.sample())[0])


@asked.over("mixed up", ["PPO", "DQN"])
def test_what_gymnasiums_reset_returns_is_told_from_an_observation(algorithm, placement):
    env = gym.make("CartPole-v1")
    model = guests.make(algorithm, placement, env=env)
    with pytest.raises(ValueError, match="mixing Gym API"):
        model.predict(env.reset())
