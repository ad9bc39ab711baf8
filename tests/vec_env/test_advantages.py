"""Advantages that are normalized within each task, in every kind of rollout buffer."""

import warnings

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO

import sb3_moe
from sb3_moe.callbacks import TaskAdvantageCallback
from sb3_moe.vec_env.rollout_buffers import normalized_by_task
from sb3_moe.vec_env.task_ids import TaskIds
from sb3_moe_envs import Cycle
from sb3_moe_envs.spaces.interface import NamedBox

DICT = spaces.Dict({"obs": spaces.Box(-1, 1, (3,)), "task_id": spaces.Discrete(3)})
NAMED = NamedBox(-1, 1, (5,), task_names=["a", "b"])
ACTIONS = spaces.Discrete(2)
TASKS = ["CartPole-v1", ("SB3MoE/CartPole-v0", {"gravity": 1.62})]
STEPS, N_ENVS = 8, 3


def test_each_task_gets_mean_0_and_deviation_1_by_hand():
    advantages = np.array([[1.0, 100.0], [3.0, 300.0], [7.0, 5.0]], np.float32)
    tasks = np.array([[0, 1], [0, 1], [2, 0]])
    # Of 1, 3 and 5 the mean is 3 and the deviation 2; of 100 and 300, 200 and 100 times root 2.
    expected = [[-1.0, -(0.5**0.5)], [0.0, 0.5**0.5], [0.0, 1.0]]
    found = normalized_by_task(advantages, tasks)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("space", "num_tasks", "message"),
    [
        (spaces.Box(-1, 1, (4,)), None, "needs a task id in .*, a Dict's `task_id`"),
        (spaces.Box(-1, 1, (4,)), 4, "`num_tasks` must leave something of Box.*got 4"),
        (spaces.Box(-1, 1, (4, 5)), 2, "needs a one-hot at the end of a flat Box"),
        (DICT, 2, "`num_tasks` must agree with the task_id space, 3, got 2"),
        (NAMED, 3, "`num_tasks` must agree with the tasks in the observation space, 2, got 3"),
    ],
)
def test_an_observation_without_a_task_id_is_refused(space, num_tasks, message):
    with pytest.raises(ValueError, match=message):
        TaskIds(space, num_tasks, "normalizing by task")


def make_env(**kwargs):
    return sb3_moe.make_multitask_vec_env(TASKS, 2, seed=0, **kwargs)


def ppo(env=None, algorithm=PPO, **kwargs):
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 1} if algorithm is not A2C else {}
    return algorithm("MultiInputPolicy", env or make_env(), seed=0, device="cpu",
                     **settings | kwargs)  # fmt: skip


def test_ppo_warns_where_it_normalizes_over_all_tasks_too():
    cure = "give PPO normalize_advantage=False"
    with pytest.warns(UserWarning, match=cure):
        ppo().learn(16, callback=TaskAdvantageCallback())


@pytest.mark.covering
@pytest.mark.parametrize("name", ["MaskablePPO", "RecurrentPPO"])
@pytest.mark.parametrize("task_id", ["dict", "onehot"])
def test_a_callback_normalizes_those_of_every_on_policy_algorithm(name, task_id):
    contrib = pytest.importorskip("sb3_contrib", reason="needs the contrib extra")
    env = make_env(task_id=task_id, schedule=Cycle(7, num_cycles=None))
    policy = {"dict": "MultiInput", "onehot": "Mlp"}[task_id]
    policy += "LstmPolicy" if name == "RecurrentPPO" else "Policy"
    model = getattr(contrib, name)(policy, env, n_steps=16, batch_size=16, seed=0, device="cpu",
                                   normalize_advantage=False)  # fmt: skip
    callback = TaskAdvantageCallback(None if task_id == "dict" else 2)
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.learn(32, callback=callback)
        buffer = model.rollout_buffer
        obs = buffer.observations
        ids = obs["task_id"].ravel() if task_id == "dict" else obs[..., -2:].argmax(-1).ravel()
        advantages = buffer.advantages.ravel()
        assert set(ids.tolist()) == {0, 1}
        for task in (0, 1):
            assert advantages[ids == task].mean() == pytest.approx(0, abs=1e-5)
            assert advantages[ids == task].std(ddof=1) == pytest.approx(1, abs=1e-3)


def test_an_algorithm_without_rollouts_is_refused():
    model = DQN("MultiInputPolicy", make_env(), device="cpu", buffer_size=100)
    with pytest.raises(ValueError, match="`model` must be on-policy, as PPO, got DQN"):
        model.learn(8, callback=TaskAdvantageCallback())
