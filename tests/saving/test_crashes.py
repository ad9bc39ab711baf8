"""A file is the old one or the new one, whatever stops the saving."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import arena
import pytest

import sb3_moe


@pytest.fixture(scope="module")
def models():
    return [arena.make("PPO", seed=seed, net_arch=[64], num_experts=2) for seed in (0, 1)]


def bytes_of(model, path):
    sb3_moe.save(model, path)
    return path.read_bytes()


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.full)])
def test_a_kill_leaves_the_old_file_or_the_new_one(kills, tmp_path):
    # In a process of its own: this one may have loaded what can't be forked, as jax.
    script = [sys.executable, str(Path(__file__).parent / "kill_while_saving.py")]
    done = subprocess.run(
        [*script, str(tmp_path / "x.moe"), str(kills)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["whole"] * kills


@pytest.mark.parametrize("stage", ["syncing", "renaming"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(stage, models, tmp_path, monkeypatch):
    path = tmp_path / "x.moe"
    old = bytes_of(models[0], path)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {"syncing": (os, "fsync"), "renaming": (os, "replace")}
    monkeypatch.setattr(*target[stage], full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        sb3_moe.save(models[1], path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_made(models, tmp_path):
    sb3_moe.save(models[0], tmp_path / "a" / "b" / "x.moe")
    sb3_moe.load(tmp_path / "a" / "b" / "x.moe", device="cpu")
