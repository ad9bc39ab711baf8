"""What can't be saved is found out before training, and a save that fails leaves nothing."""

import ctypes

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_moe.callbacks import SnapshotCallback


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


def test_a_folder_that_cannot_be_written_to_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    rule = "snapshots can't be written to .*file/run/checkpoints .*pass a `path` that can be"
    refused(ppo(), tmp_path / "file" / "run", OSError, rule)


def test_a_model_that_cannot_be_pickled_is_refused_at_the_start(tmp_path):
    model = ppo()
    model.pointer = ctypes.pointer(ctypes.c_int(3))
    refused(model, tmp_path, ValueError, "the model can't be saved, .*ValueError: ctypes")


def test_what_a_killed_process_left_is_gone_when_training_starts(tmp_path):
    left = tmp_path / "checkpoints" / ".step-000000000016.zip.1.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    ppo().learn(16, callback=SnapshotCallback(16, tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000000016.zip"]
