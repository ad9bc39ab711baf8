"""What is exact after resuming, for every algorithm: the table that `resume` promises."""

import arena
import numpy as np
import pytest
import torch as th
from reach import Reach
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from test_resume import digest, finish

import sb3_moe
from sb3_moe.callbacks import SnapshotCallback, save_snapshot
from sb3_moe.saving import snapshot
from sb3_moe.saving.snapshot import resume
from sb3_moe.vec_env import DeviceReplayBuffer

TOTAL, FIRST = 120, 40


def envs(n=2, discrete=False):
    actions = arena.DISCRETE if discrete else arena.BOX
    return DummyVecEnv([lambda: arena.Arena(arena.FLAT, actions) for _ in range(n)])


def discrete(n=2):
    return envs(n, discrete=True)


def goals():
    return DummyVecEnv([Reach] * 2)


def small(**kwargs):
    return {"policy_kwargs": {"net_arch": [8], **kwargs}, "device": "cpu", "seed": 3}


def on(algorithm, env, policy="MlpPolicy", **kwargs):
    return algorithm(policy, env, n_steps=10, **small(), **kwargs)


def off(algorithm, env, policy="MlpPolicy", **kwargs):
    defaults = {"learning_starts": 24, "batch_size": 8, "buffer_size": 200, "train_freq": 2}
    return algorithm(policy, env, **{**small(), **defaults, **kwargs})


def ou(initial=None):
    return OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.5), dt=0.1, initial_noise=initial)


def moved(model, env):
    model.set_env(env)
    return model


def contrib(name):
    return getattr(pytest.importorskip("sb3_contrib", reason="needs the contrib extra"), name)


def recurrent(env, policy="MlpLstmPolicy", **kwargs):
    arguments = small(lstm_hidden_size=4)
    return contrib("RecurrentPPO")(policy, env, n_steps=10, **arguments, **kwargs)


SDE = {"use_sde": True}
OFTEN = {"use_sde": True, "sde_sample_freq": 3}
HER = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}}

# Algorithm and what it is run with: each goes on bit for bit.
EXACT = {
    "A2C": lambda: on(A2C, discrete()),
    "PPO": lambda: on(PPO, discrete(), batch_size=20),
    "PPO gSDE often": lambda: on(PPO, envs(), batch_size=20, **OFTEN),
    "PPO VecNormalize gSDE": lambda: on(PPO, VecNormalize(envs()), batch_size=20, **SDE),
    "PPO VecFrameStack": lambda: on(PPO, VecFrameStack(envs(), 3), batch_size=20),
    "TRPO": lambda: on(contrib("TRPO"), discrete(), batch_size=20),
    "MaskablePPO": lambda: on(contrib("MaskablePPO"), discrete(), batch_size=20),
    "RecurrentPPO MoE": lambda: recurrent(discrete(), policy="MoeMlpLstmPolicy"),
    "DQN set_env": lambda: moved(off(DQN, discrete()), discrete()),
    "DQN n-step": lambda: off(DQN, discrete(), n_steps=3),
    "DQN episodes": lambda: off(DQN, discrete(1), train_freq=(1, "episode"), gradient_steps=-1),
    "QRDQN": lambda: off(contrib("QRDQN"), discrete()),
    "DDPG OU": lambda: off(DDPG, envs(), action_noise=ou()),
    "TD3": lambda: off(TD3, envs()),
    "TD3 OU": lambda: off(TD3, envs(), action_noise=ou(np.ones(2))),
    "TD3 OU episodes": lambda: off(
        TD3, envs(n=1), action_noise=ou(), train_freq=(1, "episode"), gradient_steps=-1
    ),
    "SAC": lambda: off(SAC, envs(), gradient_steps=-1),
    "SAC gSDE warmup": lambda: off(SAC, envs(), use_sde_at_warmup=True, **SDE, learning_starts=70),
    "SAC gSDE OU": lambda: off(SAC, envs(), action_noise=ou(), **SDE),
    "SAC n-step VecNormalize": lambda: off(SAC, VecNormalize(envs()), n_steps=3),
    "SAC less memory": lambda: off(
        SAC,
        envs(),
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    ),
    "SAC HER": lambda: off(SAC, goals(), "MultiInputPolicy", **HER),
    "TD3 HER OU": lambda: off(TD3, goals(), "MultiInputPolicy", action_noise=ou(), **HER),
    "SAC device buffer": lambda: off(SAC, envs(), replay_buffer_class=DeviceReplayBuffer),
    "TQC gSDE": lambda: off(contrib("TQC"), envs(), **SDE),
    "CrossQ gSDE OU": lambda: off(contrib("CrossQ"), envs(), action_noise=ou(), **SDE),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_algorithm_goes_on_bit_for_bit(name, tmp_path):
    model = EXACT[name]().learn(TOTAL, callback=SnapshotCallback(FIRST, tmp_path, keep=9))
    assert finish(min(tmp_path.glob("checkpoints/*")), TOTAL) == digest(model)


@pytest.mark.parametrize("name", ["PPO VecNormalize gSDE", "TD3 HER OU"])
def test_a_run_that_ended_goes_on_as_one_that_was_to_be_longer(name, tmp_path):
    expected = EXACT[name]().learn(TOTAL)
    EXACT[name]().learn(60, callback=SnapshotCallback(999, tmp_path))
    assert finish(tmp_path, TOTAL) == digest(expected)


def test_a_resumed_model_that_is_saved_before_it_learns_has_its_own_noise(tmp_path):
    EXACT["TD3 OU"]().learn(40, callback=SnapshotCallback(20, tmp_path))
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
    assert finish(tmp_path / "again.zip", TOTAL) == digest(expected)


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
    model = EXACT["RecurrentPPO MoE"]().learn(20)
    rollout = snapshot._rollout_state(model, drawn=True)
    monkeypatch.setattr(snapshot, "_rollout_state", lambda *_, **__: rollout)
    model.device = th.device("cuda")
    save_snapshot(model, str(tmp_path / "snapshot.zip"))
    with pytest.warns(UserWarning, match="it was trained on cuda and goes on on cpu"):
        resume(tmp_path / "snapshot.zip", device="cpu")
