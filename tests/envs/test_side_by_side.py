"""Copies that others build: what counts over all of them, and the warning where it can't be."""

from __future__ import annotations

import copy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from counting import CountingEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_moe import make_multitask_vec_env
from sb3_moe_envs import Cycle, Interleave, MultiTaskEnv, Task

ID = "Classic-CartPole4"
TASKS = [Task(name, env_fn=CountingEnv) for name in ("a", "b")]
CURE = r"several MultiTaskEnvs of \['.*step side by side.*make_multitask_vec_env"


def suite_id(**kwargs):
    return partial(gym.make, f"sb3_moe_envs:SB3MoE/{ID}-v0", schedule=Cycle(40), **kwargs)


def play(env, steps):
    env.reset()
    for _ in range(steps):
        env.step(np.zeros(env.num_envs, int))


def test_environments_that_others_build_side_by_side_warn_with_the_cure():
    env = make_vec_env(suite_id(), n_envs=4)
    with pytest.warns(UserWarning, match=CURE):
        play(env, 9)


def test_the_cures_count_over_all_copies_without_a_warning():
    cures = [
        make_vec_env(suite_id(), n_envs=4, env_kwargs={"num_envs": 4}),
        DummyVecEnv([suite_id(num_envs=4, env_index=i) for i in range(4)]),
    ]
    for env in cures:
        play(env, 10)
        assert [schedule.task for schedule in env.get_attr("schedule")] == [1] * 4
    env = gym.make_vec(f"sb3_moe_envs:SB3MoE/{ID}-v0", num_envs=4, schedule=Cycle(40))
    play(env, 10)
    assert env.unwrapped.get_task().tolist() == [1] * 4
    env = make_multitask_vec_env("Classic/CartPole4", 4, schedule=Cycle(40))
    play(env, 10)
    assert env.env_method("get_task") == [1] * 4


def test_training_and_evaluation_in_turn_are_no_copies():
    training, evaluation = (MultiTaskEnv(TASKS, schedule=Cycle(400)) for _ in range(2))
    for _ in range(9):
        for env in (training, evaluation):
            env.reset()
            env.step(0)
            env.step(0)


def test_environments_of_other_tasks_or_told_that_they_are_alone_are_no_copies():
    others = [Task(name, env_fn=CountingEnv) for name in ("c", "d")]
    for pair in (
        [MultiTaskEnv(TASKS), MultiTaskEnv(others)],
        [MultiTaskEnv(TASKS, num_envs=1) for _ in range(2)],
        [MultiTaskEnv(TASKS, schedule=Interleave("episodes")) for _ in range(2)],
    ):
        for env in pair:
            env.reset(seed=0)
        for _ in range(9):
            for env in pair:
                if any(env.step(0)[2:4]):
                    env.reset()


def test_evaluations_after_each_step_and_copies_that_look_ahead_are_no_neighbors():
    trained, evaluated = (MultiTaskEnv(TASKS, schedule=Cycle(40)) for _ in range(2))
    for env in (trained, evaluated):
        env.reset(seed=0)
    for _ in range(5):
        trained.step(0)
        for _ in range(2):
            evaluated.step(0)
    for _ in range(5):
        copy.deepcopy(trained).step(0)
        trained.step(0)
