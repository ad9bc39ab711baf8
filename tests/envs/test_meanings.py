"""Choices have names where a task gives them."""

import gymnasium as gym
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_moe
from sb3_moe.tasks.of_env import action_meanings
from sb3_moe_envs import MultiTaskEnv


class Named(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def get_action_meanings(self):
        return ("stay", "go")


class Nameless(gym.Env):
    observation_space, action_space = Named.observation_space, spaces.Discrete(3)


NAMES = {0: ["stay", "go"]}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_world_of_several_tasks_knows_each_ones_names(vectorization):
    tasks = [Named, Nameless]
    env = sb3_moe.make_multitask_vec_env(tasks, n_envs=3, vectorization=vectorization)
    assert action_meanings(env) == NAMES
    env.close()


def test_so_does_one_that_plays_a_task_at_a_time():
    assert MultiTaskEnv([Named, Nameless]).action_meanings() == NAMES


@pytest.mark.parametrize(("make", "found"), [(Named, NAMES), (Nameless, {})])
def test_an_environment_without_tasks_is_asked_itself(make, found):
    assert action_meanings(sb3_moe.make_multitask_vec_env([make])) == found
    assert action_meanings(DummyVecEnv([make])) == found


def test_actions_that_are_no_single_choice_have_no_names():
    class Continuous(Named):
        action_space = spaces.Box(-1, 1, (2,))

    assert action_meanings(DummyVecEnv([Continuous])) == {}
