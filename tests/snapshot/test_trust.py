"""Snapshots as others may forge them: each ends in one line, and nothing in it is run."""

import hashlib
import json
import os
import pickle
import shutil
import stat
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO

import sb3_moe
from sb3_moe.callbacks import SnapshotCallback, save_snapshot
from sb3_moe.files.user_key import VARIABLE
from sb3_moe.saving import UnsafeFileError
from sb3_moe.snapshot.manifest import DamagedError, UntrustedError, write_manifest
from sb3_moe.snapshot.resuming import resume

PICKLES = ("env.pkl", "model.zip", "rest.pkl", "replay_buffer.pkl")


class Walk(NamedTuple):
    steps: int
    left: int


def own_schedule(remaining):
    return 1e-3 * remaining


def model(kind):
    if kind == "plain":
        return DQN("MoeMlpPolicy", "CartPole-v1", buffer_size=100, device="cpu", seed=0)
    # Its functions can't be given back without running code.
    schedule = lambda remaining: 1e-3 * remaining  # noqa: E731
    return PPO("MlpPolicy", "CartPole-v1", schedule, n_steps=16, batch_size=16, device="cpu")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Two snapshots of two runs of each kind."""
    root = tmp_path_factory.mktemp("snapshots")
    for kind in ("plain", "own"):
        made = model(kind)
        for number in (1, 2):
            made.learn(48, reset_num_timesteps=False)
            save_snapshot(made, root / kind / str(number))
    return root


@pytest.fixture
def snapshots(originals, tmp_path):
    shutil.copytree(originals, tmp_path / "copy")
    return tmp_path / "copy"


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(snapshot, kind, rule):
    """Check that a snapshot is refused in one line, and nothing in it was run."""
    with pytest.raises(kind, match=rule) as caught:
        resume(snapshot, device="cpu")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnsafeFileError)
    assert not (snapshot.parent / "boom").exists()


def test_what_could_be_written_safely_was(originals):
    assert {path.name for path in (originals / "plain" / "1").iterdir()} == {
        "manifest.json",
        "model.moe",
        "replay_buffer.safetensors",
        "state.json",
        "state.safetensors",
        "env.pkl",
    }
    assert {path.name for path in (originals / "own" / "1").iterdir()} == {
        "manifest.json",
        "model.zip",
        "state.json",
        "state.safetensors",
        "env.pkl",
        "rest.pkl",
    }


@pytest.mark.parametrize("kind", ["plain", "own"])
def test_ones_own_snapshot_is_read_without_a_word(snapshots, kind):
    assert resume(snapshots / kind / "2", device="cpu")[0].num_timesteps == 96


@pytest.mark.parametrize(
    ("kind", "name"), [("plain", "env.pkl"), ("own", "env.pkl"), ("own", "rest.pkl")]
)
def test_a_pickle_put_in_place_of_another_is_not_run(snapshots, kind, name):
    snapshot = snapshots / kind / "1"
    (snapshot / name).write_bytes(pickle.dumps(Bomb(snapshots / kind / "boom")))
    refused(snapshot, DamagedError, f"1/{name} is not what the run wrote")


def test_a_zip_put_in_place_of_another_is_not_run(snapshots):
    snapshot, other = snapshots / "own" / "1", model("own")
    other.bomb = Bomb(snapshots / "own" / "boom")
    other.save(snapshot / "model.zip")
    refused(snapshot, DamagedError, "1/model.zip is not what the run wrote")


@pytest.mark.parametrize("kind", ["plain", "own"])
def test_a_pickle_that_the_manifest_does_not_name_is_not_run(snapshots, kind):
    snapshot = snapshots / kind / "1"
    bomb = pickle.dumps(Bomb(snapshots / kind / "boom"))
    for name in set(PICKLES) | {"state.pkl"}:
        if not (snapshot / name).exists():
            (snapshot / name).write_bytes(bomb)
    resume(snapshot, device="cpu")
    assert not (snapshots / kind / "boom").exists()


@pytest.mark.parametrize("signature", ["0" * 64, None, "own"])
def test_a_manifest_that_was_changed_is_not_believed(snapshots, signature):
    snapshot = snapshots / "plain" / "1"
    (snapshot / "env.pkl").write_bytes(pickle.dumps(Bomb(snapshots / "plain" / "boom")))
    manifest = json.loads((snapshot / "manifest.json").read_text())
    data = (snapshot / "env.pkl").read_bytes()
    manifest["files"]["env.pkl"] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if signature != "own":
        manifest["hmac_sha256"] = signature
    (snapshot / "manifest.json").write_text(json.dumps(manifest))
    rule = "is not signed with your key" if signature else "is not signed: if you trust"
    refused(snapshot, UntrustedError, rule)


@pytest.mark.parametrize("name", ["env.pkl", "state.json", "state.safetensors", "model.moe"])
def test_a_file_of_another_snapshot_of_the_same_user_is_refused(snapshots, name):
    shutil.copy(snapshots / "plain" / "2" / name, snapshots / "plain" / "1" / name)
    refused(snapshots / "plain" / "1", DamagedError, f"1/{name} is not what the run wrote")


@pytest.mark.parametrize("stays", ["env.pkl", "model.moe", "state.json"])
def test_another_snapshots_manifest_does_not_fit_what_stays(snapshots, stays):
    one, two = (snapshots / "plain" / number for number in "12")
    for path in two.iterdir():
        if path.name != stays:
            shutil.copy(path, one / path.name)
    refused(one, DamagedError, f"1/{stays} is not what the run wrote")


def test_a_manifest_that_is_gone_leaves_a_snapshot_that_must_be_trusted(snapshots):
    snapshot = snapshots / "plain" / "1"
    (snapshot / "manifest.json").unlink()
    refused(snapshot, UntrustedError, r"it has no manifest.json: if .*`sb3-moe study run --trust`")
    assert resume(snapshot, device="cpu", trust=True)[0].num_timesteps == 48


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": "sb3_moe snapshot"}',
        '{"format": "x", "files": {}, "hmac_sha256": null}',
        '{"format": "sb3_moe snapshot", "files": [], "hmac_sha256": null}',
        '{"format": "sb3_moe snapshot", "files": {"env.pkl": 3}, "hmac_sha256": null}',
        '{"format": "sb3_moe snapshot", "files": {}, "hmac_sha256": 3}',
        '{"format": "sb3_moe snapshot", "files": {"a": {"bytes": -1, "sha256": ""}}, '
        '"hmac_sha256": ""}',
        '{"format": "sb3_moe snapshot", "files": {"a": {"bytes": 1, "sha256": 5}}, '
        '"hmac_sha256": ""}',
        '{"format": "sb3_moe snapshot", "files": {"../a": {"bytes": 1, "sha256": ""}}, '
        '"hmac_sha256": ""}',
        '{"format": "sb3_moe snapshot", "files": {}, "hmac_sha256": "\\ud800"}',
        '{"format": "sb3_moe snapshot", "files": {"\\uDFFF": {"bytes": 1, "sha256": ""}}, '
        '"hmac_sha256": ""}',
        "[" * 70000,
    ],
)
def test_a_manifest_that_is_none_is_damage(snapshots, text):
    (snapshots / "plain" / "1" / "manifest.json").write_text(text)
    refused(snapshots / "plain" / "1", DamagedError, "1/manifest.json is none: ")


@pytest.mark.parametrize("name", ["env.pkl", "state.json", "model.moe", "manifest.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "gone"])
def test_what_is_no_file_of_its_own_is_not_opened(snapshots, name, kind):
    path = snapshots / "plain" / "1" / name
    data = path.read_bytes()
    path.unlink()
    if kind == "link":
        (snapshots / "aside").write_bytes(data)
        path.symlink_to(snapshots / "aside")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif name == "manifest.json":
        return
    refused(path.parent, DamagedError, f"1/{name} (can't be read|is no regular file)")


def test_rows_of_another_length_are_refused(snapshots):
    path = snapshots / "plain" / "1" / "replay_buffer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(path.parent, DamagedError, "replay_buffer.safetensors is not what the run wrote")


@pytest.mark.parametrize(
    ("begin", "rule"), [(b"\xff" * 8, "says that its header has"), (b"\x00" * 8, "is not JSON")]
)
def test_rows_that_are_none_are_refused(snapshots, begin, rule):
    path = snapshots / "plain" / "1" / "replay_buffer.safetensors"
    path.write_bytes(begin + path.read_bytes()[8:])
    refused(path.parent, UnsafeFileError, rule)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"format": "x"}, "state.json is of no snapshot"),
        ({"format_version": 9}, "of format version 9 and this sb3_moe reads 1"),
        ({"parts": []}, "holds no dict"),
        ({"parts": {"last": [1]}}, "holds no dict"),
        ({"generators": {"array": "999"}}, "names the array '999', which it hasn't"),
        ({"generators": {"deque": [1, 2, 3]}}, "of the unknown kind 'deque'"),
        ({"generators": {"scalar": ["object", 1]}}, "of the unknown kind 'scalar'"),
        ({"generators": {"int": "9" * 5000}}, "holds no list"),
        ({"generators": {"a": 1, "b": 2}}, "an object without one kind"),
        ({"action_space": {"space": {"Box": {}}, "generator": None}}, "its Box space must have"),
        ({"action_space": 5}, "can't be opened"),
        ({"generators": {"dict": {}}}, "1 can't be opened: .*KeyError: 'python'"),
    ],
)
def test_a_state_that_is_none_is_one_line_even_where_it_is_trusted(snapshots, change, rule):
    snapshot = snapshots / "plain" / "1"
    state = json.loads((snapshot / "state.json").read_text())
    (snapshot / "state.json").write_text(json.dumps(state | change))
    (snapshot / "manifest.json").unlink()
    with pytest.raises(UnsafeFileError, match=rule) as caught:
        resume(snapshot, device="cpu", trust=True)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_gone_is_named(snapshots):
    snapshot = snapshots / "plain" / "1"
    for name in ("manifest.json", "model.moe"):
        (snapshot / name).unlink()
    with pytest.raises(DamagedError, match=r"1 has neither model\.moe nor"):
        resume(snapshot, device="cpu", trust=True)


def test_while_it_is_written_nobody_else_can_put_a_file_into_a_snapshot(tmp_path, monkeypatch):
    seen = []

    def looking(folder, unhashed):
        above = [folder, *folder.parents[: len(folder.parents) - len(tmp_path.parents) - 1]]
        seen.append([stat.S_IMODE(each.stat().st_mode) for each in above])
        return write_manifest(folder, unhashed)

    monkeypatch.setattr("sb3_moe.snapshot.writing.write_manifest", looking)
    before = os.umask(0)  # as where a group shares its folders
    try:
        save_snapshot(model("plain"), tmp_path / "s")
    finally:
        os.umask(before)
    assert 0o700 in seen[0]
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o777
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_an_unknown_bit_generator_is_not_made(snapshots):
    snapshot = snapshots / "plain" / "1"
    state = json.loads((snapshot / "state.json").read_text())
    state["action_space"]["generator"] = ["Generator", {"dict": {}}]
    (snapshot / "state.json").write_text(json.dumps(state))
    (snapshot / "manifest.json").unlink()
    with pytest.raises(UnsafeFileError, match="a generator of the unknown kind 'Generator'"):
        resume(snapshot, device="cpu", trust=True)


# The key.


def test_the_snapshot_of_another_machine_says_which_key_it_lacks(snapshots, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other"))
    save_snapshot(model("plain"), tmp_path / "mine")
    refused(
        snapshots / "plain" / "1",
        UntrustedError,
        rf"your key {tmp_path}/other \(on another machine, let {VARIABLE} name a copy",
    )
    assert resume(snapshots / "plain" / "1", device="cpu", trust=True)[0].num_timesteps == 48


def test_without_a_key_nothing_is_believed(snapshots, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    refused(snapshots / "plain" / "1", UntrustedError, "none can't be used: No such file")


def test_a_key_that_others_may_know_proves_nothing(snapshots, tmp_path, monkeypatch):
    own = Path(shutil.copy(os.environ[VARIABLE], tmp_path / "key"))
    monkeypatch.setenv(VARIABLE, str(own))
    own.chmod(0o644)
    refused(snapshots / "plain" / "1", UntrustedError, "has mode 0644, and others may know it")
    own.chmod(0o600)
    resume(snapshots / "plain" / "1", device="cpu")


def test_where_no_key_can_be_made_snapshots_are_written_and_one_line_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "key"))
    made = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu")
    with pytest.warns(UserWarning, match="only `trust=True` resumes them: .*File exists"):
        made.learn(32, callback=SnapshotCallback(16, tmp_path))
    with pytest.raises(UntrustedError, match=r"its manifest.json is not signed: if you trust"):
        resume(tmp_path)
    assert resume(tmp_path, trust=True)[0].num_timesteps == 32


# What else a model holds.


def test_what_a_callback_keeps_on_the_model_and_its_log_are_as_they_were(tmp_path):
    made = model("plain").learn(60)
    made.tensorboard_log = "somewhere"
    made.mine = {"a": (1, 2.5, 2**70, float("nan")), "b": [np.float32(3), np.arange(3)]}
    made.object = own_schedule
    save_snapshot(made, tmp_path / "s")
    assert (tmp_path / "s" / "rest.pkl").exists()
    found, _ = resume(tmp_path / "s", device="cpu")
    assert repr(found.mine) == repr(made.mine)
    assert type(found.mine["b"][0]) is np.float32
    assert found.object is own_schedule
    assert found.tensorboard_log == "somewhere"
    assert found.ep_info_buffer == made.ep_info_buffer
    assert found.ep_info_buffer.maxlen == made.ep_info_buffer.maxlen
    assert len(found.ep_info_buffer) > 0


def test_an_array_that_is_a_view_or_cannot_be_written_to_is_kept(tmp_path):
    made = model("plain")
    turned, still = np.arange(12.0).reshape(3, 4)[::-1, ::-1], np.arange(3)
    still.flags.writeable = False
    made.mine = [turned, still]
    save_snapshot(made, tmp_path / "s")
    assert not (tmp_path / "s" / "rest.pkl").exists()
    found = resume(tmp_path / "s", device="cpu")[0].mine
    assert repr(found) == repr(made.mine)


def test_a_setting_of_the_buffer_that_was_changed_stays_so(tmp_path):
    made = DQN("MlpPolicy", "CartPole-v1", n_steps=3, buffer_size=100, device="cpu").learn(8)
    made.replay_buffer.n_steps = 2
    save_snapshot(made, tmp_path / "s")
    assert resume(tmp_path / "s", device="cpu")[0].replay_buffer.n_steps == 2


@pytest.mark.parametrize("suffix", [".moe", ".zip"])
def test_a_model_alone_is_not_resumed_and_the_error_says_what_opens_it(tmp_path, suffix):
    made = model("plain")
    path = tmp_path / f"x{suffix}"
    sb3_moe.save(made, path) if suffix == ".moe" else made.save(path)
    with pytest.raises(ValueError, match=r"got the file .*; a model alone is opened by sb3"):
        resume(path)


@pytest.mark.parametrize(
    "value",
    [
        th.tensor([1 + 2j]),
        th.ones(2, requires_grad=True),
        th.ones(2).to_sparse(),
        np.array(["a"], dtype=object),
        np.array([1 + 2j]),
        np.array([1.0], dtype=">f8"),
        {1: 2},
        {"a": {3}},
        OrderedDict(a=1),
        Walk(1, 2),
    ],
)
def test_what_is_no_plain_value_is_kept_in_the_pickle_that_is_signed(value, tmp_path):
    made = model("plain")
    made.mine = value
    save_snapshot(made, tmp_path / "s")
    assert (
        "mine" not in json.loads((tmp_path / "s" / "state.json").read_text())["parts"]["attributes"]
    )
    found = resume(tmp_path / "s", device="cpu")[0].mine
    assert type(found) is type(value)
    assert repr(found) == repr(value)
