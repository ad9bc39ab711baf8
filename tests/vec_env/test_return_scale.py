"""Rewards that are divided by what their task's returns come to."""

from types import SimpleNamespace

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces

import sb3_moe
from sb3_moe import presets
from sb3_moe.vec_env import ReturnScaledReplayBuffer
from sb3_moe.vec_env.replay_buffers import end_running_episodes

SPACE = spaces.Box(-1, 1, (2,))


def buffer(**options):
    return ReturnScaledReplayBuffer(
        100, SPACE, spaces.Box(-1, 1, (1,)), "cpu", n_envs=2, gamma=0.5, **options
    )


def add(into, rewards, dones, cut=(False, False), length=None):
    obs = np.zeros((2, 2), dtype=np.float32)
    infos = [{"task_id": i, "TimeLimit.truncated": each} for i, each in enumerate(cut)]
    for info in infos if length else ():
        info["episode"] = {"l": length}
    into.add(obs, obs, np.zeros((2, 1)), np.array(rewards), np.array(dones), infos)


def rewards_of(filled, task):
    drawn = filled._gather(np.flatnonzero(filled.task_ids == task), None)
    return drawn.rewards.flatten().tolist()


def test_an_episode_that_learn_broke_off_is_no_part_of_the_next_one():
    filled = buffer()
    add(filled, [4.0, 1.0], [False, False])  # and then `learn` resets the environments
    add(filled, [4.0, 1.0], [True, True], length=1)
    add(filled, [4.0, 1.0], [True, True], length=1)
    assert filled.largest == {0: 4.0, 1: 1.0}


def test_rewards_are_divided_by_the_largest_return_of_their_task():
    filled = buffer(scale=10.0)
    add(filled, [4.0, 1.0], [False, False])
    assert rewards_of(filled, 0) == [4.0]
    add(filled, [-8.0, 1.0], [False, False])
    add(filled, [8.0, 1.0], [True, False])
    # 4 - 8/2 + 8/4 = 2
    assert filled.largest == {0: 2.0}
    assert rewards_of(filled, 0) == [20.0, -40.0, 40.0]
    assert rewards_of(filled, 1) == [1.0, 1.0, 1.0]
    add(filled, [-40.0, 1.0], [True, True], cut=(False, True))
    # 1 + 1/2 + 1/4 + 1/8, and 1/16 of 1 / (1 - 1/2) behind the cut
    assert filled.largest == {0: 40.0, 1: 2.0}
    assert rewards_of(filled, 0) == [1.0, -2.0, 2.0, -10.0]
    assert rewards_of(filled, 1) == [5.0] * 4
    add(filled, [90.0, 90.0], [False, False])
    end_running_episodes(filled)
    add(filled, [1.0, 1.0], [True, True])
    assert filled.largest == {0: 40.0, 1: 2.0}


def test_a_normalizer_does_not_scale_rewards_a_second_time():
    filled = buffer(scale=10.0)
    add(filled, [4.0, 1.0], [True, True])
    env = SimpleNamespace(normalize_obs=lambda obs: obs, normalize_reward=lambda reward: 0 * reward)
    assert filled._gather(np.array([0, 1]), env).rewards.flatten().tolist() == [10.0, 10.0]


def test_a_model_trains_and_goes_on_with_it(tmp_path):
    env = sb3_moe.make_multitask_vec_env("Classic/Pendulum4", n_envs=4, seed=0)
    options = presets.BRC_LIKE | {"net_arch": [8, 8], "task_embedding": 2}
    sizes = {"learning_starts": 8, "buffer_size": 2_000, "batch_size": 8}
    sizes["replay_buffer_class"] = ReturnScaledReplayBuffer
    model = sb3.SAC("MoeMultiInputPolicy", env, policy_kwargs=options, **sizes)
    model.learn(820)  # an episode of each task
    assert set(model.replay_buffer.largest) == {0, 1, 2, 3}
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert model.replay_buffer.sample(4).rewards.abs().max() <= 10.0
    assert th.isfinite(model.replay_buffer.sample(4).rewards).all()


def test_a_discount_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`gamma` must be .* got 1\.0"):
        ReturnScaledReplayBuffer(10, SPACE, SPACE, "cpu", gamma=1.0)
