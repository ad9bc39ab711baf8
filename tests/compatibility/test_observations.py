"""Observations and actions of every space, as in the tests of SB3 and sb3-contrib."""

import arena
import models
import numpy as np
from behaviors import over
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

FIRST, LAST = (spaces.Box(0, 255, shape, np.uint8) for shape in ((1, 36, 40), (36, 40, 1)))
ORDERS = {"channels first": FIRST, "channels last": LAST}
WRAPPED = ["plain", "stacked", "normalized"]


class OwnBox(spaces.Box):
    """A Box by another name."""


OBSERVATIONS = {
    "number": spaces.Discrete(6),
    "choices": spaces.MultiDiscrete([4, 3]),
    "rows of bits": spaces.MultiBinary((3, 2)),
    "float64": spaces.Box(-1, 1, (2,), np.float64),
    "subclass": OwnBox(-1, 1, (2,), np.float32),
}


def lstm_takes(algorithm, space):
    """torch's LSTM refuses numpy's int, as which sb3-contrib gives it a MultiDiscrete's width."""
    return algorithm != "RecurrentPPO" or not isinstance(space, spaces.MultiDiscrete)


@over("observations", fits=lstm_takes, space=OBSERVATIONS)
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
# sb3-contrib's recurrent policy fails with MultiBinary actions.
TAKEN = {
    **dict.fromkeys(models.ON_POLICY, tuple(ACTIONS)),
    **dict.fromkeys(models.WITH_Q, ("number",)),
    **dict.fromkeys(models.WITH_ACTOR, ("vector", "matrix")),
    "MaskablePPO": ("number", "choices", "bits"),
    "RecurrentPPO": ("vector", "matrix", "number", "choices"),
}


class Unmasked(arena.Arena):
    """Allows every action of MultiDiscrete and MultiBinary spaces."""

    def action_masks(self):
        count = {"Discrete": 4, "MultiDiscrete": 5, "MultiBinary": 6}
        return np.ones(count[type(self.action_space).__name__], bool)


def is_taken(algorithm, space):
    return space in [ACTIONS[name] for name in TAKEN[algorithm]]


@over("actions", fits=is_taken, space=ACTIONS)
def test_it_takes_every_action_space_of_its_algorithm(algorithm, placement, space):
    env = Unmasked(arena.FLAT, space)
    model = arena.train(models.make(algorithm, placement, env=env))
    assert space.contains(model.predict(arena.FLAT.sample())[0])


def buffer_takes(algorithm, order, wrapped):
    """SB3's replay buffers get a normalized environment's images as they are: channels last."""
    return algorithm in models.ON_POLICY or order is FIRST or wrapped != "normalized"


@over("keys", models.WITH_IMAGES, buffer_takes, order=ORDERS, wrapped=WRAPPED)
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
