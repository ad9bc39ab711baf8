"""Pictures, as in sb3-contrib's ``test_cnn``."""

import copy

import arena
import contrib_asked as asked
import contrib_guests as guests
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)
from tables import PLACEMENTS

SHARED = {"shared": True, "apart": False}
TARGETS = {"QRDQN": ("quantile_net", "quantile_net_target"), "TQC": ("critic", "critic_target")}


def on_pictures(algorithm, placement, **kwargs):
    env = guests.env_of(algorithm, guests.PICTURE)
    return guests.make(algorithm, placement, "Cnn", env, **kwargs)


@asked.over("pictures", guests.WITH_PICTURES)
def test_pictures_are_turned_and_encoded_and_a_loaded_model_does_the_same(
    algorithm, placement, tmp_path
):
    model = arena.train(on_pictures(algorithm, placement))
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage)
    picture = guests.PICTURE.sample()
    for _ in range(3):
        assert model.action_space.contains(model.predict(picture, deterministic=False)[0])
    action = arena.predict(model, picture)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(arena.predict(loaded, picture), action)


@asked.over("shared", ["TRPO", "MaskablePPO", "RecurrentPPO", "TQC"], share=SHARED)
def test_a_features_extractor_is_shared_or_not(algorithm, placement, share):
    model = on_pictures(algorithm, placement, share_features_extractor=share)
    policy = model.policy
    if algorithm == "TQC":
        pair = policy.actor.features_extractor, policy.critic.features_extractor
        assert policy.critic_target.features_extractor is not policy.critic.features_extractor
    else:
        pair = policy.pi_features_extractor, policy.vf_features_extractor
    assert (pair[0] is pair[1]) == share
    arena.train(model)


def equal(ours, theirs):
    """Say of each of two networks' parameters whether it is the same."""
    return [th.equal(a, b) for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("algorithm", TARGETS)
def test_targets_follow_by_tau_and_by_nothing_else(algorithm, placement):
    model = on_pictures(algorithm, placement)
    net, target = (getattr(model, name) for name in TARGETS[algorithm])
    assert all(equal(net.parameters(), target.parameters()))
    arena.train(model, 8)
    before, old = (copy.deepcopy(list(each.parameters())) for each in (net, target))
    model.tau = 0.0
    model.train(gradient_steps=1, batch_size=8)
    assert all(equal(target.parameters(), old))
    assert not all(equal(net.parameters(), before))
    after = copy.deepcopy(list(net.parameters()))
    model.lr_schedule = lambda _: 0.0
    model.tau = 0.5
    if algorithm == "QRDQN":
        # QR-DQN moves its target where it acts.
        model.target_update_interval = 1
        model._on_step()
    model.train(gradient_steps=1, batch_size=8)
    assert all(equal(net.parameters(), after))
    assert not all(equal(target.parameters(), old))


@asked.over("features_dim", guests.WITH_PICTURES)
def test_a_layer_of_features_dim_stands_behind_the_encoder(algorithm, placement):
    model = on_pictures(algorithm, placement, features_extractor_kwargs={"features_dim": 8})
    extractors = [
        module
        for name, module in model.policy.named_modules()
        if name.endswith("features_extractor")
    ]
    assert extractors
    assert all(extractor.features_dim == 8 for extractor in extractors)
    arena.train(model)


@asked.over("scaled", guests.WITH_PICTURES)
def test_scaled_pictures_are_taken_with_normalize_images_false(algorithm, placement):
    env = VecNormalize(DummyVecEnv([lambda: guests.env_of(algorithm, guests.SB3_PICTURE)]))
    model = guests.make(algorithm, placement, "Cnn", env, normalize_images=False)
    arena.train(model, 24)
    obs = env.reset()
    assert obs.dtype == np.float32
    assert obs.min() < 0
    assert model.action_space.contains(arena.predict(model, obs)[0])
