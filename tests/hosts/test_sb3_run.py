"""SB3's algorithms with each of their settings, as in its ``test_run``."""

import arena
import asked
import guests
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

NOISES = {
    "normal": NormalActionNoise(np.zeros(2), np.full(2, 0.1)),
    "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.1)),
}
SPACES = {"box": arena.BOX, "discrete": arena.DISCRETE}


def losses(model):
    return {key: v for key, v in model.logger.name_to_value.items() if "loss" in key}


def assert_learned(model):
    assert losses(model)
    assert np.isfinite(list(losses(model).values())).all(), losses(model)


@asked.over("action noise", guests.WITH_ACTOR, noise=NOISES)
def test_it_learns_with_noise_on_its_actions(algorithm, placement, noise):
    model = guests.make(algorithm, placement, model={"action_noise": noise})
    assert_learned(arena.train(model))
    assert model.action_noise is noise


@asked.over("advantages", guests.ON_POLICY, normalize={"as they are": False, "normalised": True})
def test_it_learns_with_advantages_normalised_or_not(algorithm, placement, normalize):
    model = guests.make(algorithm, placement, model={"normalize_advantage": normalize})
    assert_learned(arena.train(model))


@asked.over("clipped values", ["PPO"], clip={"none": None, "0.2": 0.2}, actions=SPACES)
def test_it_learns_with_values_clipped_or_not(algorithm, placement, clip, actions):
    env = arena.Arena(arena.FLAT, actions)
    model = guests.make(algorithm, placement, env=env, model={"clip_range_vf": clip})
    assert_learned(arena.train(model))
    assert ("train/clip_range_vf" in model.logger.name_to_value) == (clip is not None)


@asked.over("entropy", ["SAC"], ent_coef={word: word for word in ("auto", "auto_0.01", 0.01)})
def test_it_learns_with_entropy_fixed_or_learned(algorithm, placement, ent_coef):
    model = arena.train(guests.make(algorithm, placement, model={"ent_coef": ent_coef}))
    assert_learned(model)
    assert (model.log_ent_coef is None) == (ent_coef == 0.01)


@asked.over("critics", guests.WITH_ACTOR, n_critics={"1": 1, "3": 3})
def test_it_learns_with_any_number_of_critics(algorithm, placement, n_critics):
    model = arena.train(guests.make(algorithm, placement, n_critics=n_critics))
    assert_learned(model)
    assert len(model.critic.q_networks) == n_critics


FREQUENCIES = {"4": 4, "4 steps": (4, "step"), "1 episode": (1, "episode")}


@asked.over("train_freq", guests.OFF_POLICY, train_freq=FREQUENCIES)
def test_it_learns_every_so_many_steps_or_episodes(algorithm, placement, train_freq, tmp_path):
    model = guests.make(algorithm, placement, model={"train_freq": train_freq})
    assert_learned(arena.train(model, 20))
    model.save(tmp_path / "model")
    for kwargs in ({}, {"train_freq": train_freq}):
        loaded = type(model).load(tmp_path / "model", env=model.get_env(), **kwargs)
        assert loaded.train_freq == model.train_freq
        assert_learned(arena.train(loaded, 20))


@asked.over("several environments", guests.OFF_POLICY)
def test_it_learns_from_several_environments(algorithm, placement):
    env = make_vec_env(lambda: arena.default_env(algorithm, "MoeMlpPolicy"), n_envs=2)
    kwargs = {"train_freq": 3, "gradient_steps": -1, "learning_starts": 0}
    if algorithm != "DQN":
        kwargs["action_noise"] = NOISES["normal"]
    if algorithm == "SAC" and placement != "big":
        kwargs |= {"use_sde": True, "sde_sample_freq": 4}
    model = guests.make(algorithm, placement, env=env, model=kwargs)
    arena.train(model, 3)
    # As many updates as transitions.
    assert model.logger.name_to_value["train/n_updates"] == 6
    assert algorithm == "DQN" or isinstance(model.action_noise, VectorizedActionNoise)


@asked.over("one row", ["PPO"])
def test_it_learns_from_a_batch_of_one_row(algorithm, placement):
    sizes = {"n_steps": 1, "batch_size": 1, "normalize_advantage": False}
    assert_learned(arena.train(guests.make(algorithm, placement, model=sizes), 2))
    with pytest.warns(UserWarning, match="a truncated mini-batch of size 1"):
        model = guests.make(algorithm, placement, model={"n_steps": 9, "batch_size": 8})
    assert_learned(arena.train(model, 9))
