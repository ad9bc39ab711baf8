"""Observations and actions of every space, as in the tests of SB3 and sb3-contrib."""

import arena
import models
import numpy as np
import pytest
from behaviors import over
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)

FIRST, LAST = (spaces.Box(0, 255, shape, np.uint8) for shape in ((1, 36, 40), (36, 40, 1)))
ORDERS = {"channels first": FIRST, "channels last": LAST}


class OwnBox(spaces.Box):
    """A Box by another name."""


@over("predict")
def test_it_predicts_for_one_observation_and_for_several(algorithm, placement):
    env = models.env_of(algorithm)
    model = models.make(algorithm, placement, env=env)
    obs, _ = env.reset()
    for deterministic in (True, False):
        assert env.action_space.contains(model.predict(obs, deterministic=deterministic)[0])
    several = model.predict(np.stack([obs, obs]))[0]
    assert several.shape == (2, *env.action_space.shape)


OBSERVATIONS = {
    "number": spaces.Discrete(6),
    "choices": spaces.MultiDiscrete([4, 3]),
    "rows of bits": spaces.MultiBinary((3, 2)),
    "float64": spaces.Box(-1, 1, (2,), np.float64),
    "subclass": OwnBox(-1, 1, (2,), np.float32),
}


@over("observations", space=OBSERVATIONS)
def test_it_takes_discrete_and_binary_observations_and_float64(algorithm, placement, space):
    actions = arena.actions_of(algorithm)
    if algorithm in models.WITH_ACTOR:
        actions = spaces.Box(-1, 1, (2,), np.float64)
    env = DummyVecEnv([lambda: arena.Arena(space, actions)])
    model = arena.train(models.make(algorithm, placement, env=env))
    assert np.isfinite(evaluate_policy(model, env, n_eval_episodes=2, warn=False)[0])
    assert arena.predict(model, space.sample()).dtype == actions.dtype


ACTIONS = {
    "vector": arena.BOX,
    "matrix": spaces.Box(-1, 1, (2, 2), np.float32),
    "number": arena.DISCRETE,
    "choices": spaces.MultiDiscrete([3, 2]),
    "bits": spaces.MultiBinary(3),
}
TAKEN = {
    **dict.fromkeys(models.ON_POLICY, frozenset(ACTIONS)),
    **dict.fromkeys(models.WITH_Q, frozenset({"number"})),
    **dict.fromkeys(models.WITH_ACTOR, frozenset({"vector", "matrix"})),
    "MaskablePPO": {"number", "choices", "bits"},
}


class Unmasked(arena.Arena):
    """Allows every action of MultiDiscrete and MultiBinary spaces."""

    def action_masks(self):
        count = {"Discrete": 4, "MultiDiscrete": 5, "MultiBinary": 6}
        return np.ones(count[type(self.action_space).__name__], bool)


def is_sound(algorithm, space):
    """Say whether SB3 or sb3-contrib can: its recurrent policy fails with MultiBinary actions."""
    return (algorithm, space) != ("RecurrentPPO", ACTIONS["bits"])


@over("actions", fits=is_sound, space=ACTIONS)
def test_it_takes_every_action_space_of_its_algorithm_and_refuses_others(
    algorithm, placement, space
):
    (name,) = [name for name, each in ACTIONS.items() if each is space]
    env = Unmasked(arena.FLAT, space)
    if name in TAKEN[algorithm]:
        model = arena.train(models.make(algorithm, placement, env=env))
        assert space.contains(model.predict(arena.FLAT.sample())[0])
    else:
        with pytest.raises(AssertionError, match=r"only supports .* as action spaces"):
            models.make(algorithm, placement, env=env)


@over("one key", models.WITH_IMAGES)
def test_a_dict_of_one_vector_gives_the_policy_of_that_vector(algorithm, placement):
    policies, answers = [], []
    obs = np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5)
    for kind in ("MultiInput", "Mlp"):
        env = models.env_of(algorithm, spaces.Dict({"vector": arena.FLAT}))
        env.reset(seed=1)
        env = FlattenObservation(env) if kind == "Mlp" else env
        model = arena.train(models.make(algorithm, placement, kind, env))
        policies.append(model.policy)
        answers.append(arena.predict(model, obs if kind == "Mlp" else {"vector": obs}))
    arena.assert_same_weights(*policies)
    np.testing.assert_array_equal(*answers)


@over("keys", models.WITH_IMAGES, order=ORDERS, wrapped=["plain", "stacked", "normalized"])
def test_it_takes_a_dict_of_an_image_a_vector_and_a_number(algorithm, placement, order, wrapped):
    space = {"image": order, "vector": arena.FLAT, "number": spaces.Discrete(4)}
    if wrapped == "stacked":
        del space["number"]
    env = VecMonitor(DummyVecEnv([lambda: models.env_of(algorithm, spaces.Dict(space))]))
    if wrapped == "stacked":
        axis = "first" if order is FIRST else "last"
        env = VecFrameStack(env, 3, {"vector": None, "image": axis})
    elif wrapped == "normalized":
        env = VecNormalize(env, norm_obs_keys=["vector"])
    model = models.assert_learns(models.make(algorithm, placement, "MultiInput", env))
    env = model.get_env()
    assert np.isfinite(evaluate_policy(model, env, n_eval_episodes=1, warn=False)[0])


@over("stacked", models.WITH_IMAGES, frames={"vector": arena.FLAT, **ORDERS})
def test_it_takes_stacked_vectors_and_images(algorithm, placement, frames):
    order = "first" if frames is FIRST else "last"
    env = VecFrameStack(DummyVecEnv([lambda: models.env_of(algorithm, frames)]), 3, order)
    is_image = len(frames.shape) == 3
    model = models.make(algorithm, placement, "Cnn" if is_image else "Mlp", env)
    # As the policy sees it, an image's channels first.
    assert model.observation_space.shape == ((3, 36, 40) if is_image else (15,))
    models.assert_learns(model)


@over("images", models.WITH_IMAGES, order=ORDERS)
def test_images_are_encoded_and_acted_on_the_same_from_a_file(
    algorithm, placement, order, tmp_path
):
    env = models.env_of(algorithm, order)
    model = models.assert_learns(models.make(algorithm, placement, "Cnn", env))
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage) == (order is LAST)
    obs = order.sample()
    assert env.action_space.contains(model.predict(obs, deterministic=False)[0])
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))


@over("features_dim", models.WITH_IMAGES, name=["features_dim", "cnn_output_dim"])
def test_a_linear_layer_stands_behind_the_encoder(algorithm, placement, name):
    space, kind = models.IMAGE, "Cnn"
    if name == "cnn_output_dim":
        space, kind = spaces.Dict({"image": space}), "MultiInput"
    env = models.env_of(algorithm, space)
    layer = {"features_extractor_kwargs": {name: 16}}
    policy = models.assert_learns(models.make(algorithm, placement, kind, env, **layer)).policy
    found = [m for name, m in policy.named_modules() if name.endswith("features_extractor")]
    assert found
    assert all(each.features_dim == 16 for each in found)


SHARING = [name for name in models.WITH_IMAGES if name not in models.WITH_Q]


@over("shared", SHARING, share=[True, False])
def test_the_features_extractor_is_shared_or_not(algorithm, placement, share):
    env = models.env_of(algorithm, models.IMAGE)
    policy = arena.train(
        models.make(algorithm, placement, "Cnn", env, share_features_extractor=share)
    ).policy
    if algorithm in models.ON_POLICY:
        assert (policy.pi_features_extractor is policy.vf_features_extractor) == share
        return
    assert (policy.actor.features_extractor is policy.critic.features_extractor) == share
    assert policy.critic_target.features_extractor is not policy.critic.features_extractor
    if hasattr(policy, "actor_target"):
        ours, theirs = policy.actor_target, policy.critic_target
        assert (ours.features_extractor is theirs.features_extractor) == share
