"""The small file that says how far a run is."""

import json

from stable_baselines3 import PPO

from sb3_moe.callbacks import TaskRolloutCallback
from sb3_moe.study.run.view import Heartbeat
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe_envs import Task


def test_returns_are_under_the_full_names_of_the_tasks(tmp_path):
    names = ["a-game-of-a-long-name-and-another", "my_suite:Mine/Game-v0"]
    options = {"max_episode_steps": 5}
    env = make_multitask_vec_env([Task(name, "CartPole-v1", options) for name in names], 2)
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, n_epochs=1)
    callbacks = [TaskRolloutCallback(), Heartbeat(tmp_path / "live.json", 32)]
    model.learn(32, callback=callbacks)
    live = json.loads((tmp_path / "live.json").read_text())
    assert live["returns"] == dict.fromkeys(names, 5.0)
