"""Masked and recurrent policies, as in sb3-contrib's tests."""

import arena
import models
import numpy as np
import pytest
import torch as th
from behaviors import over
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import (
    InvalidActionEnvDiscrete,
    InvalidActionEnvMultiBinary,
    InvalidActionEnvMultiDiscrete,
)
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_with_masks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_moe.policies import on_policy

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


@over("no masks", ["MaskablePPO"])
def test_without_masks_it_learns_and_is_evaluated_if_told_so(algorithm, placement):
    env = IdentityEnv(dim=2)
    model = models.make(algorithm, placement, env=env)
    for use in (model.learn, lambda _: score(model, env)):
        with pytest.raises(ValueError, match="does not support action masking"):
            use(16)
    model.learn(16, use_masking=False)
    assert 0 <= score(model, env, use_masking=False) <= 100


def test_policies_without_masks_are_refused():
    with pytest.raises(ValueError, match="Policy must subclass MaskableActorCriticPolicy"):
        MaskablePPO(on_policy.MoeMlpPolicy, some())


ACTIONS = {
    "discrete": (spaces.Discrete(4), [True, False, True, True]),
    "multidiscrete": (spaces.MultiDiscrete([3, 2]), [True, False, True, True, False]),
    "multibinary": (spaces.MultiBinary(2), [True, True, False, True]),
}


def choices(distribution):
    """Return one Categorical for each choice."""
    inner = getattr(distribution, "distributions", None)
    return list(inner) if inner else [distribution.distribution]


@over("distribution", ["MaskablePPO"], actions=ACTIONS)
def test_masks_scale_up_what_is_left_and_come_off_again(algorithm, placement, actions):
    space, allowed = actions
    env = arena.Arena(arena.FLAT, space)
    policy = models.make(algorithm, placement, env=env, ortho_init=False).policy
    obs = policy.obs_to_tensor(arena.observe(policy))[0]
    masks = np.array([allowed] * 3)
    free = [each.probs.clone() for each in choices(policy.get_distribution(obs))]
    distribution = policy.get_distribution(obs, masks)
    kept = th.as_tensor(masks).float().split([each.shape[1] for each in free], dim=1)
    for whole, keep, masked in zip(free, kept, choices(distribution), strict=True):
        left = whole * keep
        th.testing.assert_close(masked.probs, left / left.sum(1, keepdim=True))
    sampled = distribution.sample()
    _, log_prob, entropy = policy.evaluate_actions(obs, sampled.reshape(3, *space.shape), masks)
    th.testing.assert_close(log_prob, distribution.log_prob(sampled))
    th.testing.assert_close(entropy, distribution.entropy())
    distribution.apply_masking(None)
    for whole, bare in zip(free, choices(distribution), strict=True):
        th.testing.assert_close(bare.probs, whole)


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
    model = models.make("RecurrentPPO", "middle", **LSTMS[lstms])
    obs = arena.observe(model, 2)
    _, first = model.predict(obs, deterministic=True)
    _, second = model.predict(obs, state=first, deterministic=True)
    starts = np.array([True, True])
    _, again = model.predict(obs, state=first, episode_start=starts, deterministic=True)
    assert not all(np.allclose(a, b) for a, b in zip(first, second, strict=True))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
