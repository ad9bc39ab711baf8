"""Choices have names where a task gives them."""

import gymnasium as gym
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_moe
from sb3_moe.vec_env.tasks import action_meanings
from sb3_moe_envs import MultiTaskEnv
from sb3_moe_envs.conflicts import Conflicting, ConflictingVectorEnv
from sb3_moe_envs.methods import meanings_of
from sb3_moe_envs.vector.gymnax import MinAtarVectorEnv


class Named(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def get_action_meanings(self):
        return ("stay", "go")


class Nameless(gym.Env):
    observation_space, action_space = Named.observation_space, spaces.Discrete(3)


NAMES = {0: ["stay", "go"]}


def test_a_vector_environment_of_several_tasks_knows_each_ones_names():
    env = sb3_moe.make_multitask_vec_env([Named, Nameless], n_envs=3)
    assert action_meanings(env) == NAMES
    env.close()


def test_so_does_one_that_plays_a_task_at_a_time():
    assert MultiTaskEnv([Named, Nameless]).action_meanings() == NAMES


@pytest.mark.parametrize(("make", "found"), [(Named, NAMES), (Nameless, {})])
def test_an_environment_without_tasks_is_asked_itself(make, found):
    assert action_meanings(sb3_moe.make_multitask_vec_env([make])) == found
    assert action_meanings(DummyVecEnv([make])) == found


def test_where_actions_are_exchanged_their_names_are_too():
    world = MinAtarVectorEnv("Breakout", 2, use_minimal_action_set=True)
    assert meanings_of(world) == ["nothing", "left", "right"]
    exchanged = ConflictingVectorEnv(world, actions=(2, 0, 1))
    assert meanings_of(exchanged) == ["right", "nothing", "left"]
    assert meanings_of(Conflicting(Named(), actions=(1, 0))) == ["go", "stay"]
    assert meanings_of(Conflicting(Nameless(), actions=(1, 0, 2))) is None


def test_behind_a_wrapper_that_changes_actions_nothing_has_a_name():
    def changed():
        return gym.wrappers.TransformAction(Named(), lambda action: 1 - action, Named.action_space)

    assert meanings_of(changed()) is None
    assert action_meanings(DummyVecEnv([changed])) == {}
