"""A monitor's file goes on with the run."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_moe.saving.environment import load_env, save_env


def play(env, steps):
    for _ in range(steps):
        env.step(np.ones(env.num_envs, np.int64))


def single(path):
    return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"), str(path))])


def several(path):
    return VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")]), str(path))


@pytest.fixture(params=[single, several])
def run(request, tmp_path):
    """Play, save and play on; return what was saved, and the monitor's file."""
    file = tmp_path / "runs" / "monitor.csv"
    env = request.param(file)
    env.seed(0)
    env.reset()
    play(env, 15)
    saved = save_env(env)
    play(env, 40)
    env.close()
    return saved, file


def episodes(file):
    return [row.rpartition(",")[0] for row in file.read_text().splitlines()[2:]]


def go_on(saved, steps):
    env = load_env(saved)[0]
    play(env, steps)
    env.close()


def test_what_is_written_now_stands_behind_what_there_was(run):
    saved, file = run
    header, before = file.read_text().splitlines()[:2], episodes(file)
    go_on(saved, 40)
    assert file.read_text().splitlines()[:2] == header
    assert episodes(file)[: len(before)] == before
    assert len(episodes(file)) > len(before)


def test_a_file_that_is_gone_begins_anew(run):
    saved, file = run
    file.unlink()
    file.parent.rmdir()
    go_on(saved, 40)
    assert file.read_text().splitlines()[1].startswith("r,l,t")
    assert len(episodes(file)) > 1
