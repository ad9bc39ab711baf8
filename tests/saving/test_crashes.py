"""A file is the old one or the new one, whatever stops the saving."""

import errno
import os
import random
import signal
import time
import zipfile

import arena
import pytest

import sb3_moe


@pytest.fixture(scope="module")
def models():
    return [arena.make("PPO", seed=seed, net_arch=[64], num_experts=2) for seed in (0, 1)]


def bytes_of(model, path):
    sb3_moe.save(model, path)
    return path.read_bytes()


def save_in_a_child(model, path):
    """Save in a process of its own and return its id."""
    child = os.fork()
    if child == 0:
        try:
            sb3_moe.save(model, path)
        finally:
            os._exit(0)
    return child


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.full)])
def test_a_kill_leaves_the_old_file_or_the_new_one(kills, models, tmp_path):
    path = tmp_path / "x.moe"
    old, new = (bytes_of(model, path) for model in models)
    assert old != new
    begin = time.perf_counter()
    os.waitpid(save_in_a_child(models[1], path), 0)
    takes = time.perf_counter() - begin
    draw = random.Random(0)
    for _ in range(kills):
        path.write_bytes(old)
        child = save_in_a_child(models[1], path)
        time.sleep(draw.uniform(0.0, 1.2 * takes))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert path.read_bytes() in (old, new)
        sb3_moe.load(path, device="cpu")


@pytest.mark.parametrize("stage", ["writing", "syncing", "renaming"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(stage, models, tmp_path, monkeypatch):
    path = tmp_path / "x.moe"
    old = bytes_of(models[0], path)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {"writing": (zipfile.ZipFile, "writestr"), "syncing": (os, "fsync")}
    monkeypatch.setattr(*target.get(stage, (os, "replace")), full)
    with pytest.raises(OSError, match="No space left on device"):
        sb3_moe.save(models[1], path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_made(models, tmp_path):
    sb3_moe.save(models[0], tmp_path / "a" / "b" / "x.moe")
    sb3_moe.load(tmp_path / "a" / "b" / "x.moe", device="cpu")
