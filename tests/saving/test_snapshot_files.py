"""What is in a snapshot, and what is said of one that is damaged or can't be written."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

from sb3_moe.callbacks import SnapshotCallback, save_snapshot
from sb3_moe.saving import DamagedError, resume
from sb3_moe.vec_env.replay_buffers import DeviceReplayBuffer


def own_schedule(remaining):
    return 1e-3 * remaining


def dqn(**kwargs):
    arguments = {"buffer_size": 100, "device": "cpu", "seed": 0} | kwargs
    return DQN("MoeMlpPolicy", "CartPole-v1", **arguments)


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-1],
    "a bit": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "a model alone": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_what_the_run_wrote_is_named(damage, tmp_path):
    model, path = dqn().learn(48), tmp_path / "x.zip"
    save_snapshot(model, path)
    data = DAMAGE[damage](path.read_bytes())
    model.save(path) if data is None else path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"^x.zip is not what SnapshotCallback wrote: "):
        resume(path, device="cpu")


def test_a_snapshot_is_sb3s_zip_of_the_model_too(tmp_path):
    model = dqn().learn(48)
    save_snapshot(model, tmp_path / "x.zip")
    assert DQN.load(tmp_path / "x.zip", device="cpu").num_timesteps == 48


def test_what_a_callback_keeps_on_the_model_and_its_log_are_as_they_were(tmp_path):
    made = dqn().learn(60)
    made.tensorboard_log = "somewhere"
    made.mine = {"a": (1, 2.5, 2**70, float("nan")), "b": [np.float32(3), np.arange(3)]}
    made.object = own_schedule
    save_snapshot(made, tmp_path / "s.zip")
    found, _ = resume(tmp_path / "s.zip", device="cpu")
    assert repr(found.mine) == repr(made.mine)
    assert found.object is own_schedule
    assert found.tensorboard_log == "somewhere"
    assert found.ep_info_buffer == made.ep_info_buffer
    assert found.ep_info_buffer.maxlen == made.ep_info_buffer.maxlen
    assert len(found.ep_info_buffer) > 0


def test_classes_and_functions_of_ones_own_need_no_name(tmp_path):
    schedule = lambda remaining: 1e-3 * remaining  # noqa: E731
    made = PPO("MlpPolicy", "CartPole-v1", schedule, n_steps=16, batch_size=16, device="cpu")
    made.learn(32, callback=SnapshotCallback(16, tmp_path))
    assert resume(tmp_path, device="cpu")[0].learning_rate(0.5) == 5e-4


@pytest.mark.parametrize("kind", [None, DeviceReplayBuffer])
def test_a_replay_buffer_takes_room_for_what_it_holds(kind, tmp_path):
    made = dqn(replay_buffer_class=kind, buffer_size=100_000).learn(48)
    save_snapshot(made, tmp_path / "s.zip")
    assert (tmp_path / "s.zip").stat().st_size < 400_000
    found = resume(tmp_path / "s.zip", device="cpu")[0].replay_buffer
    assert (found.pos, len(found.observations)) == (48, 100_000)
    assert (found.observations == made.replay_buffer.observations).all()


@contextmanager
def room_for(size):
    """Let no file grow larger, as on a disk that is almost full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_has_no_room_is_told_before_training(tmp_path):
    with room_for(1000), pytest.raises(OSError, match=r"can't be written to .*File too large"):
        dqn().learn(8, callback=SnapshotCallback(4, tmp_path))
