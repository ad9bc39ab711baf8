"""Pictures, and the encoders of target networks, as in SB3's ``test_cnn``."""

import copy

import arena
import asked
import guests
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)

FIRST, LAST = ((1, 36, 40), (36, 40, 1))


def pictures(algorithm, shape=LAST):
    return arena.Arena(spaces.Box(0, 255, shape, np.uint8), arena.actions_of(algorithm))


def make(algorithm, placement, env=None, model=None, **kwargs):
    env = pictures(algorithm) if env is None else env
    return guests.make(algorithm, placement, "MoeCnnPolicy", env, model=model, **kwargs)


@asked.over("pictures", shape={"channels last": LAST, "channels first": FIRST})
def test_pictures_are_encoded_and_acted_on_the_same_from_a_file(
    algorithm, placement, shape, tmp_path
):
    env = pictures(algorithm, shape)
    model = arena.train(make(algorithm, placement, env))
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage) == (shape == LAST)
    obs, _ = env.reset(seed=0)
    for _ in range(3):
        assert env.action_space.contains(model.predict(obs, deterministic=False)[0])
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))


@asked.over("pictures", ["A2C"])
def test_stacked_channels_stay_first_where_sb3_is_told_so(algorithm, placement):
    # More channels than rows: by their shape they would be taken for the last.
    env = VecFrameStack(DummyVecEnv([lambda: pictures(algorithm, (10, 37, 36))]), 5, "first")
    env = VecTransposeImage(env, skip=True)
    model = arena.train(make(algorithm, placement, env))
    (conv, *_) = [m for m in model.policy.modules() if isinstance(m, th.nn.Conv2d)] or [None]
    assert model.observation_space.shape == (50, 37, 36)
    assert conv is None or conv.in_channels == 50


def networks(model):
    """Return pairs of an online network and its target, by name."""
    policy = model.policy
    if hasattr(policy, "q_net"):
        return {"q_net": (policy.q_net, policy.q_net_target)}
    pairs = {"critic": (policy.critic, policy.critic_target)}
    if getattr(policy, "actor_target", None) is not None:
        pairs["actor"] = (policy.actor, policy.actor_target)
    return pairs


SHARING = {"its own": False, "shared": True}


@asked.over("shared", (*guests.ON_POLICY, *guests.WITH_ACTOR), share=SHARING)
def test_the_features_extractor_is_shared_or_not(algorithm, placement, share):
    model = arena.train(make(algorithm, placement, share_features_extractor=share))
    policy = model.policy
    if algorithm in guests.ON_POLICY:
        assert (policy.pi_features_extractor is policy.vf_features_extractor) == share
        return
    assert (policy.actor.features_extractor is policy.critic.features_extractor) == share
    if algorithm == "SAC":
        assert policy.critic_target.features_extractor is not policy.critic.features_extractor
    else:
        ours, theirs = policy.actor_target, policy.critic_target
        assert (ours.features_extractor is theirs.features_extractor) == share


def snapshot(model):
    return copy.deepcopy(model.policy.state_dict())


def moved(before, model, prefix):
    after = model.policy.state_dict()
    return any(not th.equal(before[k], after[k]) for k in before if k.startswith(prefix))


@asked.over("targets", guests.OFF_POLICY)
def test_targets_follow_by_tau_and_by_nothing_else(algorithm, placement):
    interval = {"target_update_interval": 1} if algorithm in ("DQN", "SAC") else {}
    delay = {"policy_delay": 1} if algorithm == "TD3" else {}
    model = make(algorithm, placement, model={"learning_starts": 99, **interval, **delay})
    pairs = networks(model)
    for online, target in pairs.values():
        arena.assert_same_weights(online, target)
    arena.train(model, 16)  # too few to learn from
    before = snapshot(model)
    model.tau = 0.0
    model.train(gradient_steps=2, batch_size=8)
    for name in pairs:
        assert moved(before, model, f"{name}.")
        assert not moved(before, model, f"{name}_target.")
    model.tau = 0.01
    model.lr_schedule = lambda _: 0.0
    before = snapshot(model)
    if algorithm == "DQN":
        model._on_step()
    model.train(gradient_steps=1, batch_size=8)
    for name in pairs:
        assert not moved(before, model, f"{name}.")
        assert moved(before, model, f"{name}_target.")


@asked.over("features_dim", name={"alone": "features_dim", "in a Dict": "cnn_output_dim"})
def test_a_linear_layer_stands_behind_the_encoder(algorithm, placement, name):
    env, alias = pictures(algorithm), "MoeCnnPolicy"
    if name == "cnn_output_dim":
        space = spaces.Dict({"picture": env.observation_space})
        env, alias = arena.Arena(space, env.action_space), "MoeMultiInputPolicy"
    layer = {"features_extractor_kwargs": {name: 16}}
    model = arena.train(guests.make(algorithm, placement, alias, env, **layer))
    owner = getattr(model.policy, "q_net", getattr(model.policy, "actor", model.policy))
    assert owner.features_extractor.features_dim == 16


@asked.over("scaled")
def test_scaled_pictures_are_taken_where_sb3_is_told_so(algorithm, placement):
    env = VecNormalize(DummyVecEnv([lambda: pictures(algorithm, FIRST)]))
    model = arena.train(make(algorithm, placement, env, normalize_images=False))
    assert model.observation_space.dtype == np.float32
    assert model.policy.normalize_images is False
