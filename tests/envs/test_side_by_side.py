"""Environments that others build side by side: steps are counted over all of them."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_moe import make_multitask_vec_env
from sb3_moe_envs import Cycle

ID = "Classic-CartPole4"


def suite_id(**kwargs):
    return partial(gym.make, f"sb3_moe_envs:SB3MoE/{ID}-v0", schedule=Cycle(40), **kwargs)


def play(env, steps):
    env.reset()
    for _ in range(steps):
        env.step(np.zeros(env.num_envs, int))


def test_environments_that_know_how_many_they_are_count_over_all_of_them():
    told = [
        make_vec_env(suite_id(), n_envs=4, env_kwargs={"num_envs": 4}),
        DummyVecEnv([suite_id(num_envs=4, env_index=i) for i in range(4)]),
    ]
    for env in told:
        play(env, 10)
        assert [schedule.task for schedule in env.get_attr("schedule")] == [1] * 4
    env = gym.make_vec(f"sb3_moe_envs:SB3MoE/{ID}-v0", num_envs=4, schedule=Cycle(40))
    play(env, 10)
    assert env.unwrapped.get_task().tolist() == [1] * 4
    env = make_multitask_vec_env("Classic/CartPole4", 4, schedule=Cycle(40))
    play(env, 10)
    assert env.env_method("get_task") == [1] * 4
