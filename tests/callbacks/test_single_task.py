"""Callbacks on SB3's plain environments, which have no tasks."""

import gymnasium as gym
import numpy as np
import pytest
from learners import learner
from stable_baselines3 import PPO
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnv, SimpleMultiObsEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from tiny import Steps
from toy import toy_vec_env

from sb3_moe.callbacks import (
    MultiTaskEvalCallback,
    PlasticityCallback,
    ReDoCallback,
    ResetHeadsCallback,
    ShrinkAndPerturbCallback,
    TaskGradientCallback,
    TaskRolloutCallback,
)


class Named(gym.Wrapper):
    """Calls what it plays by an id of its own, which is no place among our tasks."""

    def step(self, action):
        *result, info = self.env.step(action)
        return *result, {**info, "task_id": "level-3"}


ENVS = {
    "box": ("MlpPolicy", lambda: gym.make("CartPole-v1")),
    "discrete": ("MlpPolicy", lambda: IdentityEnv(5, ep_length=10)),
    "image": ("CnnPolicy", lambda: FakeImageEnv(screen_height=40, screen_width=40)),
    "dict": ("MultiInputPolicy", lambda: SimpleMultiObsEnv(random_start=False)),
    "named": ("MlpPolicy", lambda: Named(gym.make("CartPole-v1"))),
}


def cartpoles(n_envs=2):
    return VecMonitor(DummyVecEnv([ENVS["box"][1]] * n_envs))


def make_ppo(env, policy="MlpPolicy"):
    return learner(PPO, env, policy, n_steps=16)


@pytest.mark.covering
@pytest.mark.parametrize("kind", ENVS)
def test_plasticity_of_any_space_is_followed_without_tasks(kind):
    policy, make = ENVS[kind]
    model = make_ppo(VecMonitor(DummyVecEnv([make] * 2)), f"Moe{policy}")
    callback = PlasticityCallback(32, probe_size=8, ntk_size=2)
    model.learn(96, callback=callback)
    found = callback.diagnostics
    assert found["steps"].tolist() == [32, 64, 96]
    assert found["task_names"].tolist() == ["task"]
    layer = next(name for name in found if name.startswith("dormant/"))
    assert np.isfinite(found[layer]).all()
    (batch,) = callback.batches()
    assert len(next(iter(batch.values())) if isinstance(batch, dict) else batch) == 8


class Counting(Steps):
    """Shows which step it is."""

    def observe(self):
        return np.full(2, self.steps, np.float32)


@pytest.mark.parametrize(("size", "seen"), [(6, [8, 12, 16]), (256, [4, 8, 12, 16])])
def test_a_short_training_is_measured_at_its_end_on_the_latest_that_there_is(size, seen):
    callback = PlasticityCallback(1000, probe_size=size)
    make_ppo(DummyVecEnv([Counting] * 2)).learn(32, callback=callback)
    assert callback.diagnostics["steps"].tolist() == [32]
    assert callback.batches()[0][:, 0].tolist() == np.repeat(seen, 2).tolist()


def test_several_tasks_that_can_not_be_played_apart_need_a_probe():
    model = make_ppo(toy_vec_env((0, 1, 2)), "MultiInputPolicy")
    message = r"`probe` must hold one batch .* \['a', 'b', 'c'\], got None.*_env didn't build it"
    with pytest.raises(ValueError, match=message):
        model.learn(32, callback=PlasticityCallback(32))


@pytest.mark.parametrize("kind", ["image", "dict", "named"])
def test_remedies_and_returns_work_without_tasks(kind):
    policy, make = ENVS[kind]
    env = VecMonitor(DummyVecEnv([make] * 2))
    callbacks = [
        ReDoCallback(32),
        ResetHeadsCallback(32),
        ShrinkAndPerturbCallback(32),
        TaskRolloutCallback(),
        TaskGradientCallback(32),
    ]
    model = make_ppo(env, policy)
    model.learn(96, callback=callbacks)
    assert model.logger.name_to_value["plasticity/gradient_norm/task"] > 0
    if kind != "dict":  # whose episodes are longer
        assert "rollout/task/ep_rew_mean" in model.logger.name_to_value


@pytest.mark.parametrize("build", [cartpoles, lambda: "CartPole-v1"])
def test_evaluation_of_a_plain_environment_takes_one_of_the_same_kind(build, tmp_path):
    callback = MultiTaskEvalCallback(64, 3, eval_env=build(), log_path=tmp_path)
    make_ppo(cartpoles()).learn(64, callback=callback)
    with np.load(tmp_path / "scores.npz") as saved:
        assert saved["task_names"].tolist() == ["task"]
        assert saved["returns"].shape == (2, 1, 3)
        assert (saved["returns"] == saved["lengths"]).all()
        assert saved["trained"].tolist() == [0, 0]
