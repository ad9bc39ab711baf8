"""What can't be saved is found out before training, and a save that fails leaves nothing."""

import ctypes

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_moe.callbacks import SnapshotCallback
from sb3_moe.saving import snapshot
from sb3_moe.vec_env import GymnasiumVecEnv


class Steps(BaseCallback):
    """Count the steps that were made."""

    def _on_step(self):
        return True


def ppo(env="CartPole-v1", **kwargs):
    return PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu", **kwargs)


def refused(model, path, error, match):
    """Train, which must fail before the first step, and leave nothing."""
    counted = Steps()
    with pytest.raises(error, match=match):
        model.learn(64, callback=[counted, SnapshotCallback(16, path)])
    assert counted.n_calls == 0
    assert not list(path.glob("checkpoints/.*")) if path.is_dir() else True


class Pointing(gym.Wrapper):
    """A wrapper that can't be pickled, and says so by a ValueError."""

    def __init__(self, env):
        super().__init__(env)
        self.pointer = ctypes.pointer(ctypes.c_int(3))


def test_a_part_of_the_environment_that_cannot_be_pickled_is_refused_at_the_start(tmp_path):
    env = DummyVecEnv([lambda: Pointing(gym.make("CartPole-v1"))])
    rule = r"environment can't be saved.*ValueError: ctypes objects.*give that part a `__getst"
    refused(ppo(env), tmp_path, ValueError, rule)


def test_an_environment_whose_state_cannot_be_had_is_refused_at_the_start(tmp_path):
    makers = [lambda: gym.make("CartPole-v1")]
    env = GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    refused(ppo(env), tmp_path, ValueError, "make_multitask_vec_env or a DummyVecEnv, .*got Gymnas")


def test_a_folder_that_cannot_be_written_to_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    rule = "snapshots can't be written to .*file/run/checkpoints .*pass a `path` that can be"
    refused(ppo(), tmp_path / "file" / "run", OSError, rule)


def test_a_model_that_cannot_be_pickled_is_refused_at_the_start(tmp_path):
    model = ppo()
    model.pointer = ctypes.pointer(ctypes.c_int(3))
    refused(model, tmp_path, ValueError, "the model can't be saved, .*ValueError: ctypes")


def test_a_replay_buffer_that_cannot_be_pickled_is_refused_at_the_start(tmp_path):
    class Local(ReplayBuffer):
        pass

    model = DQN("MlpPolicy", "CartPole-v1", replay_buffer_class=Local, buffer_size=9, device="cpu")
    rule = "the replay buffer can't be saved, .*; define its class at the top of a module"
    refused(model, tmp_path, ValueError, rule)


def test_trying_leaves_a_run_as_it_is_without(tmp_path):
    plain = ppo(seed=0).learn(64)
    saving = ppo(seed=0).learn(64, callback=SnapshotCallback(16, tmp_path))
    for name, value in plain.policy.state_dict().items():
        assert (saving.policy.state_dict()[name] == value).all()


def test_a_save_that_fails_leaves_nothing_and_what_was_there(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("no space left on device")

    model = ppo()

    class Fill(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 40:
                monkeypatch.setattr(snapshot, "sync_folder", fail)
            return True

    with pytest.raises(OSError, match="no space left"):
        model.learn(64, callback=[Fill(), SnapshotCallback(16, tmp_path)])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000000000016", "step-000000000032"]


def test_what_a_killed_process_left_is_gone_when_training_starts(tmp_path):
    left = tmp_path / "checkpoints" / ".step-000000000016.1.tmp"
    left.mkdir(parents=True)
    (left / "model.zip").write_bytes(b"half")
    ppo().learn(16, callback=SnapshotCallback(16, tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000000016"]
