"""What is in a snapshot, and what is said of one that is damaged or can't be written."""

import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

import sb3_moe
from sb3_moe.callbacks import SnapshotCallback, save_snapshot
from sb3_moe.saving import DamagedError, resume
from sb3_moe.saving.model_file import write_model
from sb3_moe.vec_env.replay_buffers import DeviceReplayBuffer


def own_schedule(remaining):
    return 1e-3 * remaining


def dqn(**kwargs):
    arguments = {"buffer_size": 100, "device": "cpu", "seed": 0} | kwargs
    return DQN("MoeMlpPolicy", "CartPole-v1", **arguments)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Two snapshots of one run."""
    root, model = tmp_path_factory.mktemp("snapshots"), dqn()
    for number in (1, 2):
        save_snapshot(model.learn(48, reset_num_timesteps=False), root / str(number))
    return root


@pytest.fixture
def snapshots(originals, tmp_path):
    shutil.copytree(originals, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.covering
@pytest.mark.parametrize("name", ["model.zip", "state.pkl", "replay_buffer.pkl", "manifest.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "of another"])
def test_a_file_that_is_not_what_the_run_wrote_is_named(snapshots, name, damage):
    path = snapshots / "1" / name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        shutil.copy(snapshots / "2" / name, path)
    if name == "state.pkl" and damage == "gone":
        with pytest.raises(ValueError, match="must be the folder of a snapshot"):
            resume(path.parent)
        return
    with pytest.raises(DamagedError, match=r"^1/.* (is not what the run wrote|can't be read: .*)$"):
        resume(path.parent, device="cpu")


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "sb3_moe snapshot 1", "files": []}'])
def test_a_manifest_that_is_none_is_damage(snapshots, text):
    (snapshots / "1" / "manifest.json").write_text(text)
    with pytest.raises(DamagedError, match=r"^1/"):
        resume(snapshots / "1", device="cpu")


def test_what_a_callback_keeps_on_the_model_and_its_log_are_as_they_were(tmp_path):
    made = dqn().learn(60)
    made.tensorboard_log = "somewhere"
    made.mine = {"a": (1, 2.5, 2**70, float("nan")), "b": [np.float32(3), np.arange(3)]}
    made.object = own_schedule
    save_snapshot(made, tmp_path / "s")
    found, _ = resume(tmp_path / "s", device="cpu")
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


def test_a_schedule_that_a_callback_put_on_the_model_stays(tmp_path):
    made = dqn().learn(8)
    made.lr_schedule = own_schedule
    save_snapshot(made, tmp_path / "s")
    assert resume(tmp_path / "s", device="cpu")[0].lr_schedule is own_schedule


def test_a_setting_of_the_buffer_that_was_changed_stays_so(tmp_path):
    made = dqn(n_steps=3).learn(8)
    made.replay_buffer.n_steps = 2
    save_snapshot(made, tmp_path / "s")
    assert resume(tmp_path / "s", device="cpu")[0].replay_buffer.n_steps == 2


@pytest.mark.parametrize("kind", [None, DeviceReplayBuffer])
def test_a_replay_buffer_takes_room_for_what_it_holds(kind, tmp_path):
    made = dqn(replay_buffer_class=kind, buffer_size=100_000).learn(48)
    save_snapshot(made, tmp_path / "s")
    assert (tmp_path / "s" / "replay_buffer.pkl").stat().st_size < 20_000
    found = resume(tmp_path / "s", device="cpu")[0].replay_buffer
    assert (found.pos, len(found.observations)) == (48, 100_000)
    assert (found.observations == made.replay_buffer.observations).all()


@pytest.mark.parametrize("suffix", [".moe", ".zip"])
def test_a_model_alone_is_not_resumed_and_the_error_says_what_opens_it(tmp_path, suffix):
    made, path = dqn(), tmp_path / f"x{suffix}"
    sb3_moe.save(made, path) if suffix == ".moe" else made.save(path)
    with pytest.raises(ValueError, match=r"got .*; a model alone is opened by sb3"):
        resume(path)


@contextmanager
def room_for(size):
    """Let no file grow larger, as on a disk that is almost full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fixed_rate(remaining):
    return 1e-3


@pytest.mark.parametrize("kind", ["snapshot", "model.moe", "model.zip", "save"])
def test_what_the_disk_has_no_room_for_is_named(kind, tmp_path):
    model = dqn(learning_rate=fixed_rate if kind == "model.zip" else 1e-3)
    writes = {
        "snapshot": lambda: save_snapshot(model, tmp_path / "s"),
        "save": lambda: sb3_moe.save(dqn(), tmp_path / "x.moe"),
    }
    with room_for(1000), pytest.raises(OSError, match="File too large") as caught:
        writes.get(kind, lambda: write_model(model, tmp_path))()
    names = {"snapshot": "model.zip", "save": "x.moe"}
    assert caught.value.filename.endswith(names.get(kind, kind))


def test_a_folder_that_has_no_room_is_told_before_training(tmp_path):
    with room_for(1000), pytest.raises(OSError, match=r"can't be written to .*model\.zip"):
        dqn().learn(8, callback=SnapshotCallback(4, tmp_path))
