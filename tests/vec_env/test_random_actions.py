"""Actions of a random policy, with and without what is forbidden."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

import sb3_moe
from sb3_moe.vec_env.evaluating import random_actions


class Masked(VecEnv):
    """Two copies that say which actions they allow, and play nothing."""

    reset = step_async = step_wait = close = set_attr = env_is_wrapped = None
    get_attr = DummyVecEnv.get_attr

    def __init__(self, space, masks):
        self.num_envs, self.action_space, self.masks = 2, space, masks

    def env_method(self, name, *args, indices=None, **kwargs):
        assert name == "action_masks"
        return self.masks


def drawn(space, *masks, times=60):
    space.seed(0)
    env = Masked(space, [np.array(mask, dtype=bool) for mask in masks])
    actions = np.array([random_actions(env, masked=True) for _ in range(times)])
    assert all(space.contains(action) for step in actions for action in step)
    return [sorted({tuple(np.ravel(action).tolist()) for action in actions[:, k]}) for k in (0, 1)]


def test_each_copy_draws_what_its_own_mask_allows():
    found = drawn(spaces.Discrete(4), [0, 1, 0, 1], [1, 0, 0, 0])
    assert found == [[(1,), (3,)], [(0,)]]


def test_every_entry_of_several_has_its_own_part_of_the_mask():
    found = drawn(spaces.MultiDiscrete([2, 3]), [0, 1, 1, 0, 1], [1, 0, 0, 1, 0])
    assert found == [[(1, 0), (1, 2)], [(0, 1)]]


def test_where_nothing_is_allowed_everything_is_drawn_as_sb3_contribs_policies_do():
    found = drawn(spaces.Discrete(2), [0, 0], [0, 1])
    assert found == [[(0,), (1,)], [(1,)]]


@pytest.mark.parametrize("masked", [False, True])
def test_the_generator_of_the_action_space_says_what_is_drawn(masked):
    env = sb3_moe.make_multitask_vec_env(["CartPole-v1", "Acrobot-v1"], 4, seed=0)
    env.reset()
    draws = []
    for _ in range(2):
        env.action_space.seed(5)
        draws.append([random_actions(env, masked=masked).tolist() for _ in range(5)])
    assert draws[0] == draws[1]
    env.close()
