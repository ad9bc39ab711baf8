"""What is exact after resuming, for every algorithm: the table that `resume` promises."""

import hashlib

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

import sb3_moe
from sb3_moe.callbacks import SnapshotCallback, save_snapshot
from sb3_moe.saving import snapshot
from sb3_moe.saving.snapshot import resume
from sb3_moe.vec_env import DeviceReplayBuffer

TOTAL, FIRST = 120, 40


class Walk(gym.Env):
    """A walk with noise, in short episodes of changing length."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)

    def __init__(self, discrete=False, length=11):
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (1,), np.float32)
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.left = 0.0, self.length + self.np_random.integers(3)
        return self._observation(), {}

    def step(self, action):
        move = float(np.ravel(action)[0])
        self.position = float(np.clip(self.position + move + self.np_random.normal() / 9, -9, 9))
        self.left -= 1
        return self._observation(), -abs(self.position), self.left == 0, False, {}

    def _observation(self):
        return np.array([self.position, self.left / 9], np.float32)

    def action_masks(self):
        return np.array([True, self.left % 3 > 0])


class Goal(Walk):
    """The walk as a task with a goal, for HER."""

    observation_space = spaces.Dict(
        {
            "observation": Walk.observation_space,
            "achieved_goal": spaces.Box(-9, 9, (1,), np.float32),
            "desired_goal": spaces.Box(-9, 9, (1,), np.float32),
        }
    )

    def _observation(self):
        achieved, desired = np.float32([self.position]), np.float32([1])
        seen = super()._observation()
        return {"observation": seen, "achieved_goal": achieved, "desired_goal": desired}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -np.abs(achieved_goal - desired_goal).sum(-1)


def envs(kind=Walk, n=2, **kwargs):
    return DummyVecEnv([lambda: kind(**kwargs) for _ in range(n)])


def discrete(n=2):
    return envs(discrete=True, n=n)


def small(**kwargs):
    return {"policy_kwargs": {"net_arch": [8], **kwargs}, "device": "cpu", "seed": 3}


def on(algorithm, env, policy="MlpPolicy", **kwargs):
    return algorithm(policy, env, n_steps=10, **small(), **kwargs)


def off(algorithm, env, policy="MlpPolicy", **kwargs):
    defaults = {"learning_starts": 24, "batch_size": 8, "buffer_size": 200, "train_freq": 2}
    return algorithm(policy, env, **{**small(), **defaults, **kwargs})


def ou(initial=None):
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.5), dt=0.1, initial_noise=initial)


def contrib(name):
    return getattr(pytest.importorskip("sb3_contrib", reason="needs the contrib extra"), name)


def recurrent(env, policy="MlpLstmPolicy", **kwargs):
    arguments = small(lstm_hidden_size=4)
    return contrib("RecurrentPPO")(policy, env, n_steps=10, **arguments, **kwargs)


SDE = {"use_sde": True}
OFTEN = {"use_sde": True, "sde_sample_freq": 3}
HER = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}}

INFOS = {**HER, "replay_buffer_kwargs": {"n_sampled_goal": 2, "copy_info_dict": True}}

# Algorithm and what it is run with: each goes on bit for bit.
EXACT = {
    "A2C": lambda: on(A2C, discrete()),
    "A2C gSDE": lambda: on(A2C, envs(), **SDE),
    "A2C gSDE often": lambda: on(A2C, envs(), **OFTEN),
    "PPO": lambda: on(PPO, discrete(), batch_size=20),
    "PPO gSDE": lambda: on(PPO, envs(), batch_size=20, **SDE),
    "PPO gSDE often": lambda: on(PPO, envs(), batch_size=20, **OFTEN),
    "PPO VecNormalize gSDE": lambda: on(PPO, VecNormalize(envs()), batch_size=20, **SDE),
    "PPO VecFrameStack": lambda: on(PPO, VecFrameStack(envs(), 3), batch_size=20),
    "TRPO": lambda: on(contrib("TRPO"), discrete(), batch_size=20),
    "TRPO gSDE": lambda: on(contrib("TRPO"), envs(), batch_size=20, **SDE),
    "MaskablePPO": lambda: on(contrib("MaskablePPO"), discrete(), batch_size=20),
    "RecurrentPPO": lambda: recurrent(discrete()),
    "RecurrentPPO gSDE": lambda: recurrent(envs(), **SDE),
    "RecurrentPPO MoE": lambda: recurrent(discrete(), policy="MoeMlpLstmPolicy"),
    "DQN": lambda: off(DQN, discrete()),
    "DQN n-step": lambda: off(DQN, discrete(), n_steps=3),
    "DQN episodes": lambda: off(DQN, discrete(1), train_freq=(1, "episode"), gradient_steps=-1),
    "QRDQN": lambda: off(contrib("QRDQN"), discrete()),
    "DDPG OU": lambda: off(DDPG, envs(), action_noise=ou()),
    "TD3": lambda: off(TD3, envs()),
    "TD3 normal": lambda: off(TD3, envs(), action_noise=NormalActionNoise(np.zeros(1), np.ones(1))),
    "TD3 OU": lambda: off(TD3, envs(), action_noise=ou(np.ones(1))),
    "TD3 OU one": lambda: off(TD3, envs(n=1), action_noise=ou()),
    "TD3 OU episodes": lambda: off(
        TD3, envs(n=1), action_noise=ou(), train_freq=(1, "episode"), gradient_steps=-1
    ),
    "TD3 OU vectorised": lambda: off(TD3, envs(), action_noise=VectorizedActionNoise(ou(), 2)),
    "SAC": lambda: off(SAC, envs(), gradient_steps=-1),
    "SAC OU": lambda: off(SAC, envs(), action_noise=ou()),
    "SAC gSDE": lambda: off(SAC, envs(), **SDE),
    "SAC gSDE warmup": lambda: off(SAC, envs(), use_sde_at_warmup=True, **SDE, learning_starts=70),
    "SAC gSDE often": lambda: off(SAC, envs(), **OFTEN, train_freq=8),
    "SAC gSDE OU": lambda: off(SAC, envs(), action_noise=ou(), **SDE),
    "SAC n-step VecNormalize": lambda: off(SAC, VecNormalize(envs()), n_steps=3),
    "SAC less memory": lambda: off(
        SAC,
        envs(),
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    ),
    "SAC HER": lambda: off(SAC, envs(Goal), "MultiInputPolicy", **HER),
    "SAC HER infos": lambda: off(SAC, envs(Goal), "MultiInputPolicy", **INFOS),
    "TD3 HER OU": lambda: off(TD3, envs(Goal), "MultiInputPolicy", action_noise=ou(), **HER),
    "SAC MoE gSDE": lambda: off(SAC, envs(), "MoeMlpPolicy", **SDE),
    "SAC device buffer": lambda: off(SAC, envs(), replay_buffer_class=DeviceReplayBuffer),
    "TQC gSDE": lambda: off(contrib("TQC"), envs(), **SDE),
    "TQC OU": lambda: off(contrib("TQC"), envs(), action_noise=ou()),
    "CrossQ": lambda: off(contrib("CrossQ"), envs()),
    "CrossQ gSDE OU": lambda: off(contrib("CrossQ"), envs(), action_noise=ou(), **SDE),
}


def digest(model):
    weights = b"".join(value.numpy().tobytes() for value in model.policy.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


def finish(snapshot):
    model, _ = resume(snapshot)
    assert 0 < model.num_timesteps < TOTAL
    model.learn(TOTAL - model.num_timesteps, reset_num_timesteps=False)
    return digest(model)


# What differs from another in a way that a third differs in too.
ALIKE = {
    *("A2C gSDE", "A2C gSDE often", "PPO gSDE", "TRPO", "RecurrentPPO", "DQN n-step", "TD3 OU one"),
    *("TD3 normal", "TD3 OU vectorised", "SAC OU", "SAC gSDE", "SAC gSDE often", "SAC HER infos"),
    *("SAC MoE gSDE", "TQC OU", "CrossQ", "DQN episodes", "TD3"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.full) if n in ALIKE else n for n in EXACT]
)
def test_an_algorithm_goes_on_bit_for_bit(name, tmp_path):
    model = EXACT[name]().learn(TOTAL, callback=SnapshotCallback(FIRST, tmp_path, keep=9))
    assert finish(min(tmp_path.glob("checkpoints/*"))) == digest(model)


@pytest.mark.parametrize("name", ["PPO gSDE", "TD3 HER OU"])
def test_a_run_that_ended_goes_on_as_one_that_was_to_be_longer(name, tmp_path):
    expected = EXACT[name]().learn(TOTAL)
    EXACT[name]().learn(60, callback=SnapshotCallback(999, tmp_path))
    assert finish(tmp_path) == digest(expected)


@pytest.mark.parametrize("name", ["RecurrentPPO", "SAC gSDE OU"])
def test_a_run_may_be_resumed_again_and_again(name, tmp_path):
    expected = EXACT[name]().learn(TOTAL)
    EXACT[name]().learn(40, callback=SnapshotCallback(20, tmp_path))
    for _ in range(2):
        model, _ = resume(tmp_path)
        model.learn(20, callback=SnapshotCallback(20, tmp_path), reset_num_timesteps=False)
    assert finish(tmp_path) == digest(expected)


@pytest.mark.parametrize("name", ["TD3 OU", "TD3 OU one"])
def test_a_resumed_model_that_is_saved_before_it_learns_has_its_own_noise(name, tmp_path):
    EXACT[name]().learn(40, callback=SnapshotCallback(20, tmp_path))
    model, _ = resume(tmp_path)
    model.save(tmp_path / "model")
    loaded = TD3.load(tmp_path / "model").action_noise
    sb3_moe.save(model, tmp_path / "model.moe")
    safe = sb3_moe.load(tmp_path / "model.moe").action_noise
    assert repr(safe) == repr(getattr(loaded, "base_noise", loaded))
    assert type(loaded) in (OrnsteinUhlenbeckActionNoise, VectorizedActionNoise)
    assert repr(loaded) == repr(model.action_noise)
    np.random.seed(0)
    expected = model.action_noise()
    np.random.seed(0)
    assert loaded().tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["TD3 OU", "SAC gSDE OU"])
def test_a_resumed_model_that_is_snapshotted_before_it_learns_goes_on_bit_for_bit(name, tmp_path):
    expected = EXACT[name]().learn(TOTAL)
    EXACT[name]().learn(60, callback=SnapshotCallback(999, tmp_path))
    model, _ = resume(tmp_path)
    save_snapshot(model, tmp_path / "again.zip", drawn=False)
    assert finish(tmp_path / "again.zip") == digest(expected)


def test_two_that_share_a_space_draw_from_it_in_turn_after_resuming(tmp_path):
    class Nudged(gym.Wrapper):
        def step(self, action):
            return self.env.step(np.clip(action + self.action_space.sample() / 9, -1, 1))

    def make():
        return off(SAC, DummyVecEnv([lambda: Nudged(Walk())]), learning_starts=80)

    model = make().learn(TOTAL, callback=SnapshotCallback(FIRST, tmp_path, keep=9))
    assert finish(min(tmp_path.glob("checkpoints/*"))) == digest(model)


class Stop(BaseCallback):
    def _on_step(self):
        return self.num_timesteps < 50


@pytest.mark.parametrize("name", ["PPO", "SAC HER", "DQN n-step"])
def test_a_run_that_a_callback_ended_within_a_rollout_goes_on_and_says_that_it_is_not_the_same(
    name, tmp_path
):
    model = EXACT[name]()
    if name != "PPO":
        model.train_freq = model.train_freq._replace(frequency=7)
    model.learn(TOTAL, callback=[Stop(), SnapshotCallback(FIRST, tmp_path)])
    with pytest.warns(UserWarning, match="ended in the middle of a rollout: that rollout is lost"):
        model, _ = resume(tmp_path)
    assert model.num_timesteps == 50
    if name != "PPO":
        buffer = model.replay_buffer
        assert (buffer.timeouts[buffer.pos - 1] + buffer.dones[buffer.pos - 1] > 0).all()
    model.learn(40, reset_num_timesteps=False)


def test_an_algorithm_of_another_kind_says_that_it_is_not_the_same(tmp_path):
    model = contrib("ARS")("LinearPolicy", discrete(1), n_delta=1, n_eval_episodes=1, device="cpu")
    model.learn(60, callback=SnapshotCallback(20, tmp_path))
    with pytest.warns(UserWarning, match="ARS draws random numbers before a snapshot can be taken"):
        resume(tmp_path)


def test_a_snapshot_of_another_device_goes_on_and_says_that_it_is_not_the_same(
    tmp_path, monkeypatch
):
    model = EXACT["RecurrentPPO"]().learn(20)
    rollout = snapshot._rollout_state(model, drawn=True)
    monkeypatch.setattr(snapshot, "_rollout_state", lambda *_, **__: rollout)
    model.device = th.device("cuda")
    save_snapshot(model, str(tmp_path / "snapshot.zip"))
    with pytest.warns(UserWarning, match="it was trained on cuda and goes on on cpu"):
        resume(tmp_path / "snapshot.zip", device="cpu")
