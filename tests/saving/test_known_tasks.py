"""A model's ids stand for the tasks that it was trained on, whatever it is given later."""

import gymnasium as gym
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_moe
from sb3_moe import make_multitask_vec_env
from sb3_moe.callbacks import evaluate_tasks
from sb3_moe.vec_env import PerTaskVecNormalize
from sb3_moe.vec_env.tasks import tasks_known
from sb3_moe.watching import expert_importance
from sb3_moe_envs import MultiTaskEnv

TASKS = ["CartPole-v1", "Acrobot-v1"]
NAMES = ["CartPole", "Acrobot"]
ORDER = r"`env` must have the model's tasks in the model's order, \['CartPole', 'Acrobot'\], got "
SWAPPED = ORDER + r"\['Acrobot', 'CartPole'\]"


def world(tasks, task_id="dict"):
    return make_multitask_vec_env(tasks, task_id=task_id, seed=0)


def agent(env):
    dicts = isinstance(env.observation_space, spaces.Dict)
    policy = "MoeMultiInputPolicy" if dicts else "MoeMlpPolicy"
    options = {"net_arch": [4], "num_experts": 2}
    return PPO(policy, env, n_steps=8, batch_size=8, seed=0, policy_kwargs=options)


BUILDERS = {
    "dict": world,
    "a normalized one-hot": lambda tasks: VecNormalize(world(tasks, "onehot")),
    "one at a time": lambda tasks: DummyVecEnv([lambda: MultiTaskEnv(tasks)]),
    "statistics of each": lambda tasks: PerTaskVecNormalize(world(tasks, "info")),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_file_refuses_its_tasks_in_another_order(tmp_path, build):
    path = tmp_path / "agent.moe"
    sb3_moe.save(agent(build(TASKS)), path)
    with pytest.raises(ValueError, match=SWAPPED):
        sb3_moe.load(path, build(TASKS[::-1]))
    assert tasks_known(sb3_moe.load(path, normalizer=False)) == NAMES
    assert tasks_known(sb3_moe.load(path, build(TASKS))) == NAMES


def test_a_model_that_is_given_other_tasks_knows_them_from_then_on(tmp_path):
    model = agent(world(["CartPole-v1", lambda: gym.make("CartPole-v1")]))
    env = world([lambda: gym.make("CartPole-v1"), lambda: gym.make("CartPole-v1")])
    with pytest.raises(ValueError, match=r"\['CartPole', 'task1'\], got \['task0', 'task1'\]"):
        sb3_moe.watch(model, env)
    model.set_env(env)
    assert len(sb3_moe.watch(model, env, max_steps=2, frames=False).runs[0].tracks) == 2
    sb3_moe.save(model, tmp_path / "agent.moe")
    assert tasks_known(sb3_moe.load(tmp_path / "agent.moe")) == ["task0", "task1"]


def test_sb3s_zip_refuses_its_tasks_in_another_order(tmp_path):
    agent(world(TASKS, "onehot")).save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match=r"(?s)spaces do not match: .*'Acrobot', 'CartPole'"):
        PPO.load(tmp_path / "agent.zip", world(TASKS[::-1], "onehot"))
    model = PPO.load(tmp_path / "agent.zip", world(TASKS, "onehot"))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(world(TASKS[::-1], "onehot"))
    assert tasks_known(PPO.load(tmp_path / "agent.zip")) == NAMES


@pytest.mark.parametrize(
    "play",
    [
        lambda model, env: sb3_moe.watch(model, env, max_steps=2, frames=False),
        lambda model, env: expert_importance(model, env, episodes=2),
        lambda model, env: evaluate_tasks(model, env, 1),
    ],
    ids=["watch", "importance", "evaluation"],
)
def test_tasks_in_another_order_are_not_played(play):
    model = agent(world(TASKS))
    with pytest.raises(ValueError, match=SWAPPED):
        play(model, world(TASKS[::-1]))


def test_who_never_sees_an_id_may_play_anything(tmp_path):
    sb3_moe.save(agent(world(TASKS, "none")), tmp_path / "agent.moe")
    model = sb3_moe.load(tmp_path / "agent.moe", world(TASKS[::-1], "none"))
    assert tasks_known(model) is None
    assert tasks_known(PPO("MlpPolicy", "CartPole-v1")) is None
