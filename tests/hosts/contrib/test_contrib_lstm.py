"""Policies with memory, as in sb3-contrib's ``test_lstm``."""

import arena
import contrib_asked as asked
import contrib_guests as guests
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from tables import PLACEMENTS

RECURRENT = ["RecurrentPPO"]
LSTMS = {
    "each its own": {},
    "extractors apart": {"share_features_extractor": False},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "two layers": {"lstm_kwargs": {"dropout": 0.5}, "n_lstm_layers": 2},
    "actor's two layers": {
        "enable_critic_lstm": False,
        "lstm_kwargs": {"dropout": 0.5},
        "n_lstm_layers": 2,
    },
    "actor's, extractors apart": {"enable_critic_lstm": False, "share_features_extractor": False},
}
SPACES = {
    "flat": ("Mlp", arena.FLAT),
    "picture": ("Cnn", guests.PICTURE),
    "dict": ("MultiInput", arena.with_task(arena.FLAT)),
}


@asked.over("LSTMs", RECURRENT, lstms=LSTMS, seen=SPACES)
def test_it_learns_with_any_arrangement_of_lstms(algorithm, placement, lstms, seen):
    kind, space = seen
    model = guests.make(algorithm, placement, kind, guests.env_of(algorithm, space), **lstms)
    arena.train(model, 32)
    losses = [v for name, v in model.logger.name_to_value.items() if "loss" in name]
    assert losses
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("name", LSTMS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_states_are_passed_on_and_begin_anew_with_an_episode(placement, name):
    model = guests.make("RecurrentPPO", placement, **LSTMS[name])
    obs = arena.observe(model, 2)
    _, first = model.predict(obs, deterministic=True)
    _, second = model.predict(obs, state=first, deterministic=True)
    _, again = model.predict(
        obs, state=first, episode_start=np.array([True, True]), deterministic=True
    )
    assert not all(np.allclose(a, b) for a, b in zip(first, second, strict=True))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


IMPOSSIBLE = {
    "critic's own": {"enable_critic_lstm": True},
    "extractors apart": {"enable_critic_lstm": False, "share_features_extractor": False},
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_shared_lstm_that_cannot_be_is_refused(placement, name):
    said = r"You must choose between shared LSTM|If the features extractor is not shared"
    with pytest.raises(AssertionError, match=said):
        guests.make("RecurrentPPO", placement, shared_lstm=True, **IMPOSSIBLE[name])


@asked.over("actions of two axes", RECURRENT)
def test_actions_of_two_axes_are_taken(algorithm, placement):
    env = arena.Arena(arena.FLAT, guests.TWO_AXES)
    model = arena.train(guests.make(algorithm, placement, env=env), 32)
    evaluate_policy(model, model.get_env(), n_eval_episodes=1, warn=False)
    assert guests.TWO_AXES.contains(arena.predict(model, env.observation_space.sample()))


@asked.over("no hidden layer", guests.EVERY)
def test_a_net_arch_without_a_hidden_layer_is_taken(algorithm, placement):
    arena.train(guests.make(algorithm, placement, net_arch=[]))


class Recall(gym.Env):
    """Shows a number, then nothing, and pays for the number."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.steps = int(self.np_random.integers(2)), 0
        return np.array([2 * self.number - 1, 1], np.float32), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == 2
        reward = float(done and action == self.number)
        return np.zeros(2, np.float32), reward, done, False, {}


@pytest.mark.full  # the slowest of them: 2 to 5 s each
@asked.over("memory", RECURRENT)
def test_it_remembers_what_it_saw(algorithm, placement):
    env = make_vec_env(Recall, n_envs=8)
    settings = {"n_steps": 16, "batch_size": 128, "n_epochs": 8, "learning_rate": 1e-2}
    settings |= {"gae_lambda": 0.98, "gamma": 0.9}
    model = guests.make(algorithm, placement, env=env, model=settings)
    model.learn(2048)
    # Whoever forgets is right every other time.
    assert evaluate_policy(model, env, n_eval_episodes=40)[0] > 0.9
