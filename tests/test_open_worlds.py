"""A suite and a callback of the user's own go where ours go: training, resuming, a study."""

from pathlib import Path

import pytest
from own_parts import Marks
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.callbacks import MultiTaskEvalCallback, PlasticityCallback, SnapshotCallback
from sb3_moe.measures import load_scores
from sb3_moe_envs import SUITES, Cycle, register_suite

TASKS = ["CartPole-v1", ("Acrobot-v1", {"max_episode_steps": 20})]
STUDY = """{name: own, tasks: Own/Two, preset: none, regimes: [mtrl], seeds: 1, n_envs: 2,
arguments: {n_steps: 8, batch_size: 8}, steps_per_task: 32, evaluation: {points: 1, episodes: 1},
callbacks: [{"own_parts:Marks": {every: 16}}],
architectures: {soft: {placement: middle, num_experts: 2, net_arch: [8]}}}"""


@pytest.fixture(autouse=True)
def _suite(monkeypatch):
    monkeypatch.setattr("sb3_moe_envs.suites.SUITES", dict(SUITES))
    register_suite("Own/Two", TASKS, Cycle(16))


def test_an_own_suite_and_callback_train_are_evaluated_and_go_on(tmp_path):
    env = sb3_moe.make_multitask_vec_env("Own/Two", n_envs=2, seed=0)
    kwargs = {"num_experts": 2, "net_arch": [8]}
    model = PPO("MoeMultiInputPolicy", env, n_steps=8, batch_size=8, policy_kwargs=kwargs, seed=0)
    marks = Marks(16)
    watching = [MultiTaskEvalCallback(16, 1, log_path=tmp_path), PlasticityCallback(16)]
    model.learn(48, [marks, *watching, SnapshotCallback(16, tmp_path)])
    assert marks.steps == [0, 16, 32, 48]
    assert list(load_scores(tmp_path).task_names) == ["CartPole", "Acrobot"]
    resumed, _ = sb3_moe.resume(tmp_path)
    resumed.learn(16, Marks(16), reset_num_timesteps=False)
    assert resumed.num_timesteps == 64


def test_an_own_suite_and_callback_are_in_a_study(tmp_path):
    grid = pytest.importorskip("sb3_moe.study.config", reason="needs the cli extra")
    from sb3_moe.study.folder import RunFolder
    from sb3_moe.study.training import train_run

    study = grid.read_study(STUDY, Path())
    (run,) = study.runs()
    folder = RunFolder(tmp_path)
    train_run(run, folder)
    assert folder.state() == ("done", "")
    assert run.games == ("CartPole", "Acrobot")
    assert "marks/count" in next(tmp_path.glob("progress-*.csv")).read_text().splitlines()[0]
