"""Environments that plain SB3 takes are taken here too."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from sb3_moe import make_multitask_vec_env
from sb3_moe.callbacks import make_pinned_env
from sb3_moe.vec_env import GymnasiumVecEnv
from sb3_moe_envs import Interleave


class Simple(gym.Env):
    """Three steps, a `reset` that knows of no options, and rewards that are bools of NumPy."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def reset(self, seed=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == 3
        return np.zeros(2, np.float32), np.all(over), over, False, {}


@pytest.mark.parametrize("schedule", [None, Interleave("episodes")], ids=["joined", "by slot"])
def test_a_reset_without_options_and_a_bool_for_a_reward_do(schedule):
    env = make_multitask_vec_env([Simple, Simple], 2, schedule=schedule)
    env.reset()
    rewards = [env.step(np.zeros(2, int))[1].tolist() for _ in range(3)]
    assert rewards == [[0, 0], [0, 0], [1, 1]]
    env.close()


class Named(Simple):
    """Names its task at a start alone."""

    def __init__(self, task):
        self.task = task

    def reset(self, seed=None, options=None):
        obs, _ = super().reset(seed)
        self.steps = self.task  # ends at another step than the others
        return obs, {"task_id": self.task}


def test_rows_that_say_nothing_keep_their_task():
    own = SyncVectorEnv(
        [lambda k=k: Named(k) for k in (1, 2)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    env = GymnasiumVecEnv(own)
    env.reset()
    for _ in range(7):
        infos = env.step(np.zeros(2, int))[3]
        assert [info["task_id"] for info in infos] == [1, 2]


def test_a_builder_that_gives_one_environment_twice_is_refused():
    one = Simple()
    env = make_multitask_vec_env([lambda: one, Simple], 2)  # once is no harm
    with pytest.raises(ValueError, match=r"'task0' must build a new .* lambda: Simple"):
        make_pinned_env(env)
    other = Simple()
    with pytest.raises(ValueError, match="returned one a second time"):
        make_multitask_vec_env([lambda: other], 2)


class Batched(SyncVectorEnv):
    """Says what has no row for each copy."""

    def __init__(self, num_envs):
        super().__init__(
            [lambda: gym.make("CartPole-v1")] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
        )

    def step(self, actions):
        *result, infos = super().step(actions)
        return *result, infos | {
            "seed": None,
            "lengths": [1, 2],
            "legal": [[0], [0, 1]],
            "task_id": ["level-3", "level-4"],  # by which others may mean anything
        }


def test_what_a_vector_environment_says_of_each_environment_is_dealt_out():
    env = GymnasiumVecEnv(Batched(2))
    env.reset()
    infos = env.step(np.zeros(2, int))[3]
    assert not any("seed" in info for info in infos)
    assert [info["lengths"] for info in infos] == [1, 2]
    assert [info["legal"] for info in infos] == [[0], [0, 1]]
    assert [info["task_id"] for info in infos] == ["level-3", "level-4"]
