"""GymnaxVectorEnv against gymnax itself, one copy at a time, and against its own promises."""

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("gymnax", reason="needs the minatar extra")

import gymnax
import jax

from sb3_moe_envs.vector.gymnax import GymnaxVectorEnv


def play_one_copy(name, seed, actions):
    """Play gymnax with no batching: the observations, rewards, flags and final observations."""
    env, params = gymnax.make(name)
    key, reset_key = jax.random.split(jax.random.PRNGKey(seed))
    observation, state = env.reset_env(reset_key, params)
    rows = [(np.array(observation), 0.0, False, False, None)]
    for action in actions:
        key, step_key = jax.random.split(key)
        observation, state, reward, terminated, _ = env.step_env(step_key, state, action, params)
        truncated, last = bool(env.is_truncated(state, params)), None
        if terminated or truncated:
            last = np.array(observation)
            key, reset_key = jax.random.split(key)
            observation, state = env.reset_env(reset_key, params)
        rows.append((np.array(observation), float(reward), bool(terminated), truncated, last))
    return rows


def test_each_copy_plays_what_gymnax_plays_alone_with_its_seed():
    world = GymnaxVectorEnv("CartPole-v1", 3)
    actions = np.random.default_rng(0).integers(2, size=(60, 3))
    alone = [play_one_copy("CartPole-v1", 7 + i, actions[:, i]) for i in range(3)]
    observations, _ = world.reset(seed=7)
    ends = 0
    for t in range(60):
        for i in range(3):
            np.testing.assert_allclose(observations[i], alone[i][t][0], rtol=1e-5, atol=1e-6)
        observations, rewards, terminated, truncated, infos = world.step(actions[t])
        for i in range(3):
            _, reward, ended, cut, last = alone[i][t + 1]
            assert (rewards[i], terminated[i], truncated[i]) == (reward, ended, cut)
            if last is not None:
                ends += 1
                np.testing.assert_allclose(infos["final_obs"][i], last, rtol=1e-5, atol=1e-6)
    assert ends >= 3


def test_a_time_limit_truncates_and_does_not_terminate():
    world = GymnaxVectorEnv("Pendulum-v1", 2, params={"max_steps_in_episode": 5})
    start, _ = world.reset(seed=0)
    for t in range(1, 6):
        observations, _, terminated, truncated, infos = world.step(np.zeros((2, 1), np.float32))
        assert not terminated.any()
        assert truncated.tolist() == [t == 5] * 2
        assert ("final_obs" in infos) == (t == 5)
    assert not np.array_equal(np.stack(list(infos["final_obs"])), observations)
    assert not np.array_equal(observations, start)
    assert world.step(np.zeros((2, 1), np.float32))[3].tolist() == [False, False]


def test_a_state_of_before_the_first_reset_can_be_loaded():
    world = GymnaxVectorEnv("CartPole-v1", 2)
    state = world.state_dict()
    start, _ = world.reset()
    world.load_state_dict(state)
    np.testing.assert_array_equal(world.reset()[0], start)


def test_rendering_gives_one_picture_a_copy():
    world = GymnaxVectorEnv("Breakout-MinAtar", 2, render_mode="rgb_array")
    world.reset(seed=0)
    frames = world.render()
    assert [frame.shape for frame in frames] == [(160, 160, 3)] * 2
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) >= 4
    assert GymnaxVectorEnv("Breakout-MinAtar", 2).render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "Pong-MinAtar"},
            r"`name` must be one of .*'Breakout-MinAtar'.*, got 'Pong-MinAtar'",
        ),
        ({"num_envs": 0}, r"`num_envs` must be at least 1, got 0"),
        ({"render_mode": "human"}, r"`render_mode` must be None or 'rgb_array', got 'human'"),
        ({"render_mode": "rgb_array"}, r"`render_mode` must be None for CartPole-v1"),
    ],
)
def test_a_bad_argument_is_named_with_its_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        GymnaxVectorEnv(**({"name": "CartPole-v1", "num_envs": 2} | arguments))


def test_a_bad_call_is_refused():
    world = GymnaxVectorEnv("CartPole-v1", 2)
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) on GymnaxVectorEnv"):
        world.step(np.zeros(2, int))
    with pytest.raises(ValueError, match=r"`seed` must hold num_envs=2 seeds, got 3"):
        world.reset(seed=[1, 2, 3])
    world.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions must have shape \(2,\), got \(3,\)"):
        world.step(np.zeros(3, int))
    with pytest.raises(ValueError, match=r"actions must be in \[0, 2\), got \[0.  1.7\]"):
        world.step(np.array([0, 1.7]))
    with pytest.raises(ValueError, match=r"actions must be in \[0, 2\), got \[0 2\]"):
        world.step(np.array([0, 2]))
