"""Dict observations, as in sb3-contrib's ``test_dict_env``."""

import arena
import contrib_asked as asked
import contrib_guests as guests
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

VECTOR = spaces.Box(-1, 1, (2,), np.float32)
PICTURES = {
    "channels last": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "channels first": spaces.Box(0, 255, (1, 36, 36), np.uint8),
}


def keys(picture):
    return spaces.Dict({"img": picture, "vec": VECTOR, "discrete": spaces.Discrete(4)})


def assert_learns_and_is_evaluated(model, env):
    arena.train(model, 24)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=2, warn=False)
    assert np.isfinite(mean)


def grown(algorithm, placement, kind):
    """Return a model of a vector alone, or in a Dict, its actions before training and after."""
    env = guests.env_of(algorithm, spaces.Dict({"vec": VECTOR}))
    env = FlattenObservation(env) if kind == "Mlp" else env
    model = guests.make(algorithm, placement, kind, env)
    obs = np.linspace([-1, 1], [1, -1], 9, dtype=np.float32)
    obs = obs if kind == "Mlp" else {"vec": obs}
    before = arena.predict(model, obs)
    return model, before, arena.predict(arena.train(model, 24), obs)


@asked.over("one key", guests.WITH_PICTURES)
def test_a_dict_of_one_vector_gives_the_policy_of_that_vector(algorithm, placement):
    flat, *said = grown(algorithm, placement, "Mlp")
    as_dict, *said_too = grown(algorithm, placement, "MultiInput")
    np.testing.assert_array_equal(said, said_too)
    ours, theirs = (model.policy.parameters() for model in (flat, as_dict))
    assert all(th.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@asked.over("keys", guests.WITH_PICTURES, picture=PICTURES)
def test_a_dict_of_a_picture_a_vector_and_a_number_is_taken(algorithm, placement, picture):
    env = guests.env_of(algorithm, keys(picture))
    model = guests.make(algorithm, placement, "MultiInput", env)
    assert_learns_and_is_evaluated(model, Monitor(env))


@asked.over("stacked keys", guests.WITH_PICTURES, last={"last": True, "first": False})
def test_a_dict_of_stacked_frames_is_taken(algorithm, placement, last):
    discrete = algorithm not in arena.BOX_ACTIONS

    def one():
        env = SimpleMultiObsEnv(discrete_actions=discrete, channel_last=last)
        env.action_masks = lambda: [True] * 4
        return Monitor(env)

    order = {"vec": None, "img": "last" if last else "first"}
    env = VecFrameStack(DummyVecEnv([one]), n_stack=3, channels_order=order)
    model = guests.make(algorithm, placement, "MultiInput", env)
    arena.train(model, 24)
    assert model.observation_space["vec"].shape == (15,)


@asked.over("normalised keys", guests.WITH_PICTURES)
def test_a_dict_of_which_a_key_is_normalised_is_taken(algorithm, placement):
    space = keys(PICTURES["channels first"])
    env = VecNormalize(
        DummyVecEnv([lambda: Monitor(guests.env_of(algorithm, space))]), norm_obs_keys=["vec"]
    )
    model = guests.make(algorithm, placement, "MultiInput", env)
    assert_learns_and_is_evaluated(model, env)
    assert model.get_vec_normalize_env() is env
