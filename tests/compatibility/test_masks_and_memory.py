"""Masked and recurrent policies, as in sb3-contrib's tests."""

import arena
import models
import numpy as np
import pytest
from behaviors import over
from sb3_contrib.common.envs import (
    InvalidActionEnvDiscrete,
    InvalidActionEnvMultiBinary,
    InvalidActionEnvMultiDiscrete,
)
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_with_masks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

# Each leaves no action except the right one.
CERTAIN = {
    "discrete": lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=19),
    "multidiscrete": lambda: InvalidActionEnvMultiDiscrete(dims=[2, 3], n_invalid_actions=3),
    "multibinary": lambda: InvalidActionEnvMultiBinary(dims=3, n_invalid_actions=3),
}


def some():
    return InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10)


def score(model, env, **kwargs):
    return evaluate_with_masks(model, env, n_eval_episodes=2, warn=False, **kwargs)[0]


@over("masks", ["MaskablePPO"], world=CERTAIN)
def test_nothing_that_is_masked_is_done(algorithm, placement, world, tmp_path):
    env = world()
    model = models.make(algorithm, placement, env=env)
    assert score(model, env) == 100
    assert score(model, env, use_masking=False) < 90
    evaluation = MaskableEvalCallback(
        Monitor(world()), eval_freq=16, n_eval_episodes=1, log_path=tmp_path, verbose=0
    )
    model.learn(16, callback=evaluation)
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (1, 1)


@over("masks", ["MaskablePPO"], space={"image": models.IMAGE, "dict": arena.with_task(arena.FLAT)})
def test_nothing_that_is_masked_is_done_with_images_and_dicts(algorithm, placement, space):
    kind = "Cnn" if space is models.IMAGE else "MultiInput"
    model = arena.train(models.make(algorithm, placement, kind, arena.Arena(space)))
    masks = np.array([False, False, False, True])
    for _ in range(5):
        assert model.predict(space.sample(), action_masks=masks, deterministic=False)[0] == 3


@pytest.mark.parametrize("kind", [DummyVecEnv, pytest.param(SubprocVecEnv, marks=pytest.mark.full)])
def test_several_environments_at_once_have_masks(kind):
    env = make_vec_env(some, n_envs=2, vec_env_cls=kind)
    model = arena.train(models.make("MaskablePPO", "big", env=env), 64)
    assert 0 <= score(model, env) <= 100
    env.close()


LSTMS = {
    "each its own": {},
    "extractors apart": {"share_features_extractor": False},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "two layers": {"lstm_kwargs": {"dropout": 0.5}, "n_lstm_layers": 2},
    "actor's, extractors apart": {"enable_critic_lstm": False, "share_features_extractor": False},
}
SPACES = {
    "flat": ("Mlp", arena.FLAT),
    "image": ("Cnn", models.IMAGE),
    "dict": ("MultiInput", arena.with_task(arena.FLAT)),
}


@over("LSTMs", ["RecurrentPPO"], lstms=LSTMS, seen=SPACES)
def test_it_learns_with_any_arrangement_of_lstms(algorithm, placement, lstms, seen, tmp_path):
    kind, space = seen
    model = models.make(algorithm, placement, kind, models.env_of(algorithm, space), **lstms)
    models.assert_learns(model)
    model.policy.save(tmp_path / "policy")
    loaded = type(model.policy).load(tmp_path / "policy")
    kept = loaded._get_constructor_parameters()
    assert {name: kept[name] for name in lstms} == lstms
    arena.assert_same_weights(loaded, model.policy)


@pytest.mark.parametrize("lstms", LSTMS)
def test_states_are_passed_on_and_begin_anew_with_an_episode(lstms):
    env = models.env_of("RecurrentPPO", arena.with_task(arena.FLAT))
    model = arena.train(models.make("RecurrentPPO", "middle", "MultiInput", env, **LSTMS[lstms]))
    obs = arena.observe(model, 2)
    _, first = model.predict(obs, deterministic=True)
    _, second = model.predict(obs, state=first, deterministic=True)
    starts = np.array([True, True])
    _, again = model.predict(obs, state=first, episode_start=starts, deterministic=True)
    assert not all(np.allclose(a, b) for a, b in zip(first, second, strict=True))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
