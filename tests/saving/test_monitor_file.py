"""A monitor's file goes on where a snapshot was taken, if it is the run's and can be written."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_moe.saving.environment import load_env, save_env

ROW = {"r": 1.0, "l": 2, "t": 3.0}


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


def test_what_was_written_after_the_snapshot_gives_way_to_what_is_written_now(run):
    saved, file = run
    before = episodes(file)
    go_on(saved, 15)
    assert episodes(file) == before[:3] != before
    go_on(saved, 40)
    assert episodes(file) == before


def test_a_file_that_is_gone_begins_with_the_header_that_it_had(run):
    saved, file = run
    header = file.read_text().splitlines()[:2]
    file.unlink()
    file.parent.rmdir()
    go_on(saved, 40)
    assert file.read_text().splitlines()[:2] == header
    assert len(episodes(file)) > 1


def test_a_file_of_another_run_is_never_cut(run):
    saved, file = run
    writer = ResultsWriter(str(file), {"t_start": 1.0, "env_id": "another"})
    for _ in range(100):
        writer.write_row(ROW)
    writer.close()
    before = file.read_text()
    go_on(saved, 40)
    assert file.read_text().startswith(before)
    assert len(episodes(file)) > 100
