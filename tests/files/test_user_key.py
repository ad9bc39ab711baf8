"""The key of the user's own: made once, whole, known to nobody else."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from sb3_moe.files.user_key import VARIABLE, KeyFileError, chosen_key, is_signature, key_path, sign


@pytest.fixture
def path(tmp_path, monkeypatch):
    path = tmp_path / "made" / "key"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def test_a_key_is_made_at_first_use_and_its_owner_alone_can_read_it(path):
    signature = sign(b"x", make=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) == 64
    assert [each.name for each in path.parent.iterdir()] == ["key"]
    assert sign(b"x", make=True) == signature
    assert is_signature(b"x", signature)
    assert not is_signature(b"y", signature)
    assert not is_signature(b"x", "é")


def test_another_key_signs_otherwise(path):
    signature = sign(b"x", make=True)
    path.unlink()
    sign(b"x", make=True)
    assert not is_signature(b"x", signature)


def test_checking_a_signature_makes_no_key(path):
    with pytest.raises(KeyFileError, match=f"the key {path} can't be used: No such file"):
        is_signature(b"x", "0")
    assert not path.parent.exists()


def test_without_the_variable_it_lies_among_the_users_settings(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert key_path() == tmp_path / "sb3_moe" / "key"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(key_path()) == "/home/someone/.config/sb3_moe/key"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o622, 0o601])
def test_a_key_that_others_may_know_is_refused(path, mode):
    sign(b"x", make=True)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"has mode {mode:04o}, and others may know it: .*600"):
        sign(b"x", make=True)


@pytest.mark.parametrize("content", ["", "short", "x" * 5000])
def test_a_key_that_is_none_is_refused(path, content):
    path.parent.mkdir()
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"must have 32 to 4096 bytes, got .*: delete it"):
        sign(b"x", make=True)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_key_that_is_no_file_is_refused(path, kind):
    path.parent.mkdir()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(KeyFileError, match=r"must be a regular file|Is a directory"):
        sign(b"x", make=True)


def test_a_key_of_another_user_is_refused(path, monkeypatch):
    sign(b"x", make=True)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        sign(b"x")


def test_where_no_key_can_be_made_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "key"))
    with pytest.raises(KeyFileError, match="key can't be used: File exists"):
        sign(b"x", make=True)


def test_those_that_make_one_at_a_time_have_the_same(path):
    with ThreadPoolExecutor(8) as pool:
        signatures = set(pool.map(lambda _: sign(b"x", make=True), range(64)))
    assert len(signatures) == 1
    assert [each.name for each in path.parent.iterdir()] == ["key"]


def test_processes_elsewhere_are_told_which_key_was_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "~/mine")
    assert chosen_key() == {VARIABLE: str(tmp_path / "mine")}
    monkeypatch.delenv(VARIABLE)
    assert chosen_key() == {}


@pytest.mark.parametrize(
    ("variable", "value", "path"),
    [
        (VARIABLE, "mine/key", "mine/key"),
        ("XDG_CONFIG_HOME", "mine", "mine/sb3_moe/key"),
        ("HOME", "mine", "mine/.config/sb3_moe/key"),
    ],
)
def test_a_key_that_would_lie_wherever_one_stands_is_refused(
    variable, value, path, tmp_path, monkeypatch
):
    # Whoever made the folder in which a program is started would have chosen the key.
    monkeypatch.chdir(tmp_path)
    for name in (VARIABLE, "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(KeyFileError, match=f"the key's path must be absolute, got {path}"):
        sign(b"x", make=True)
    assert not list(tmp_path.iterdir())
