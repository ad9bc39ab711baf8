"""VecHistory: the last steps beside each observation, above and below what normalizes them."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tiny import Steps

from sb3_moe.callbacks import make_pinned_env
from sb3_moe.vec_env import PerTaskVecNormalize, VecHistory, evaluate_tasks, make_multitask_vec_env

TASKS = ["CartPole-v1", "SB3MoE/ConflictingCartPole-v0"]
OFF = {"learning_starts": 20, "buffer_size": 500, "batch_size": 8}


class Counter(Steps):
    """Observe the step; the reward is ten times the step; two steps."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    length = 2

    def observe(self):
        return np.float32([self.steps])

    def reward(self, action):
        return 10.0 * self.steps


def hidden(n_envs=4, **kwargs):
    return make_multitask_vec_env(TASKS, n_envs, seed=0, task_id="info", **kwargs)


def test_histories_of_normalized_observations_hold_padding_and_rewards_as_they_are():
    normalizer = VecNormalize(DummyVecEnv([Counter]))
    env = VecHistory(normalizer, 3)
    assert env.reset()["history"][0, :2].tolist() == [[0] * 5] * 2
    env.step(np.array([1]))
    obs, _, dones, infos = env.step(np.array([0]))
    last = infos[0]["terminal_observation"]
    # Observation (1), action (2), reward, and whether the row is real.
    assert last["history"][:, 1:].tolist() == [[0, 0, 0, 1], [0, 1, 10, 1], [1, 0, 20, 1]]
    assert last["history"][2, 0] == last["obs"][0] == normalizer.normalize_obs(np.float32([2]))[0]
    assert dones[0]
    assert obs["history"][0, :, 1:].tolist() == [[0] * 4] * 2 + [[0, 0, 0, 1]]


def test_a_multi_task_environment_is_built_with_a_history_and_built_again_for_evaluation():
    env = hidden(history=3)
    assert env.observation_space["history"].shape == (3, 4 + 2 + 2)
    assert make_multitask_vec_env(TASKS, history=3).observation_space.spaces.keys() == {
        "obs", "history", "task_id"
    }  # fmt: skip
    below = VecHistory(VecNormalize(hidden()), 3)
    above = VecNormalize(hidden(history=3), norm_obs_keys=["obs"])
    for training in (env, below, above):
        model = PPO("MultiInputPolicy", training, n_steps=8, batch_size=8, n_epochs=1).learn(64)
        pinned = make_pinned_env(training, copies=1, seed=0)
        assert type(pinned) is type(training)
        assert evaluate_tasks(model, pinned, n_eval_episodes=1).returns.shape == (2, 1)
        assert evaluate_policy(model, pinned, 2)[0] > 0


@pytest.mark.parametrize("shown", [{"history": 3}, {"belief": 3}], ids=str)
def test_normalizers_that_would_change_what_is_shown_of_the_past_are_refused(shown):
    wrapper = type(hidden(**shown))
    with pytest.raises(ValueError, match=f"must be below {wrapper.__name__}"):
        VecNormalize(hidden(**shown)).reset()
    below = wrapper(VecNormalize(hidden()), 3)
    with pytest.raises(ValueError, match="or above it with norm_obs_keys"):
        DQN("MultiInputPolicy", below, **OFF).learn(1)
    for normalized in (lambda: wrapper(PerTaskVecNormalize(hidden()), 3),
                       lambda: PerTaskVecNormalize(hidden(**shown))):  # fmt: skip
        with pytest.raises(ValueError, match="PerTaskVecNormalize must know which task"):
            normalized()
