"""Observations of several keys, as in SB3's ``test_dict_env``."""

import arena
import asked
import guests
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

PICTURES = {"channels first": (1, 36, 36), "channels last": (36, 36, 1)}


def keys(picture):
    """Return the space of a picture, a vector and a number."""
    return spaces.Dict(
        {
            "picture": spaces.Box(0, 255, picture, np.uint8),
            "vector": spaces.Box(-1, 1, (2,), np.float32),
            "number": spaces.Discrete(4),
        }
    )


def assert_plays(model, env):
    assert np.isfinite(evaluate_policy(model, env, n_eval_episodes=2, warn=False)[0])


@asked.over("goals", guests.ON_POLICY)
def test_it_learns_on_policy_in_an_environment_of_goals(algorithm, placement):
    env = guests.bits()
    model = arena.train(guests.make(algorithm, placement, "MoeMultiInputPolicy", env))
    assert_plays(model, model.get_env())


@asked.over("one key")
def test_a_dict_of_one_vector_gives_the_policy_of_that_vector(algorithm, placement):
    actions = []
    space, chosen = spaces.Dict({"vector": arena.FLAT}), arena.actions_of(algorithm)
    obs = np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5)
    for alias, flat in (("MoeMultiInputPolicy", False), ("MoeMlpPolicy", True)):
        env = arena.Arena(space, chosen)
        env.reset(seed=1)
        env = gym.wrappers.FlattenObservation(env) if flat else env
        model = guests.make(algorithm, placement, alias, env)
        seen = obs if flat else {"vector": obs}
        before = arena.predict(model, seen)
        actions.append((before, arena.predict(arena.train(model), seen)))
    np.testing.assert_array_equal(*actions)


@asked.over("keys", picture=PICTURES)
def test_it_takes_a_dict_of_a_picture_a_vector_and_a_number(algorithm, placement, picture):
    env = Monitor(arena.Arena(keys(picture), arena.actions_of(algorithm)))
    model = guests.make(algorithm, placement, "MoeMultiInputPolicy", env)
    assert_plays(arena.train(model), env)


@asked.over("stacked keys", picture=PICTURES)
def test_it_takes_a_dict_of_stacked_frames(algorithm, placement, picture):
    space = keys(picture)
    del space.spaces["number"]
    order = {"vector": None, "picture": "first" if picture[0] == 1 else "last"}
    env = DummyVecEnv([lambda: arena.Arena(space, arena.actions_of(algorithm))])
    env = VecFrameStack(VecMonitor(env), n_stack=3, channels_order=order)
    model = guests.make(algorithm, placement, "MoeMultiInputPolicy", env)
    assert_plays(arena.train(model), model.get_env())


@asked.over("normalised keys")
def test_it_takes_a_dict_of_which_some_keys_are_normalised(algorithm, placement):
    space = keys((1, 36, 36))
    env = DummyVecEnv([lambda: arena.Arena(space, arena.actions_of(algorithm))])
    env = VecNormalize(VecMonitor(env), norm_obs_keys=["vector"])
    model = guests.make(algorithm, placement, "MoeMultiInputPolicy", env)
    assert_plays(arena.train(model), env)


@asked.over("nested", ["PPO"])
def test_dicts_in_dicts_are_refused_as_sb3_does(algorithm, placement):
    env = arena.Arena(spaces.Dict({"outer": spaces.Dict({"inner": arena.FLAT})}))
    with pytest.raises(NotImplementedError, match=r"[Nn]ested observation spaces"):
        guests.make(algorithm, placement, "MoeMultiInputPolicy", env)
