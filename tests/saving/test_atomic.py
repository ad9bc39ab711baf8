"""A file is the old one or the new one, wherever it lies and whatever it is called."""

import errno
import os

import pytest

from sb3_moe.saving.files import atomic, temporary_name


def write(path, text):
    with atomic(path) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize("there", [True, False], ids=["whole", "dangling"])
def test_a_link_stays_a_link_and_what_it_points_to_is_replaced(there, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    if there:
        file.write_text("old")
    link.symlink_to(file)
    write(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_is_read_only_stays_and_nothing_is_written(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("old")
    # Whoever runs the tests may write to any file.
    monkeypatch.setattr(os, "access", lambda path, mode: path != file or mode != os.W_OK)
    with pytest.raises(PermissionError, match="Permission denied") as caught:
        write(file, "new")
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, str(file))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127, "a" + "🙂" * 63])
def test_a_name_may_be_as_long_as_the_file_system_takes(name, tmp_path):
    write(tmp_path / name, "new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_temporary_name_is_hidden_and_begins_with_the_files(tmp_path):
    one, two = (temporary_name(tmp_path / "step-000000000016") for _ in range(2))
    assert one.parent == tmp_path
    assert one.match(".step-000000000016.*.tmp")
    assert one != two


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write(file, "new \udcff")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupted():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    file = tmp_path / "file"

    def on_a_full_disk():
        with atomic(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=f"No space left on device: '{file}'"):
        on_a_full_disk()
