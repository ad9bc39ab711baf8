"""VecNormalize around what a model learns from, as in SB3's ``test_vec_normalize``."""

import arena
import asked
import guests
import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


def normalized(make_env, **kwargs):
    return VecNormalize(DummyVecEnv([make_env]), **kwargs)


def assert_changes_its_normaliser(model, env, other):
    """Learn under one normaliser, then another, and find that only one in training counts."""
    assert model.get_vec_normalize_env() is env
    model.set_env(other)
    assert model.get_vec_normalize_env() is other
    arena.train(model)
    model.set_env(env)
    arena.train(model)
    assert model.get_vec_normalize_env() is env
    counts = [
        float(sum(each.count for each in rms.values()) if isinstance(rms, dict) else rms.count)
        for rms in (env.obs_rms, other.obs_rms)
    ]
    assert counts[0] > 16 > counts[1]


@asked.over("normalised")
def test_it_learns_under_one_normaliser_and_another(algorithm, placement):
    envs = [
        normalized(lambda: arena.default_env(algorithm, "MoeMlpPolicy"), **kwargs)
        for kwargs in ({}, {"training": False, "norm_reward": False})
    ]
    model = guests.make(algorithm, placement, env=envs[0])
    assert_changes_its_normaliser(model, *envs)
    assert np.isfinite(arena.predict(model, arena.observe(model))).all()


@asked.over("normalised", ["SAC"])
def test_it_learns_with_her_under_one_normaliser_and_another(algorithm, placement):
    def goals():
        env = guests.bits()
        env.observation_space = arena.spaces.Dict(
            {key: arena.spaces.Box(0, 1, (4,), np.float32) for key in env.observation_space.spaces}
        )
        return env

    envs = [
        normalized(goals, **kwargs) for kwargs in ({}, {"training": False, "norm_reward": False})
    ]
    her = {"replay_buffer_class": HerReplayBuffer, "learning_starts": 12}
    model = guests.make(algorithm, placement, "MoeMultiInputPolicy", envs[0], model=her)
    assert_changes_its_normaliser(model, *envs)
