"""A file is the old one or the new one, and one that is damaged is named."""

import errno
import json
import os

import numpy as np
import pytest

from sb3_moe.measures.scores import load_scores
from sb3_moe.saving.files import Record, atomic, check_writable, read_json, read_npz, write_npz
from sb3_moe.watching.figures import draw_dormant


def write(path, text):
    with atomic(path) as temporary:
        temporary.write_text(text)


def test_a_files_name_may_be_as_long_as_the_disk_allows(tmp_path):
    file = tmp_path / ("x" * 255)
    with atomic(file) as temporary:
        temporary.write_text("long")
    assert file.read_text() == "long"


def test_a_link_stays_a_link_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
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


FULL, GONE = OSError(errno.ENOSPC, "No space left"), OSError(errno.ENOENT, "Not there", "other")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FULL, GONE])
def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(error, tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def fails():
        with atomic(file) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        fails()
    if isinstance(error, OSError):  # a full disk is told with the file's name
        assert caught.value.filename == ("other" if error is GONE else str(file))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", ["[" * 10**5, "{", "\xff", json.dumps([1])])
def test_json_that_cannot_be_read_is_one_line_with_the_files_name(tmp_path, text):
    path = tmp_path / "done.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"^done\.json (can't be read: .+|must hold a JSON object.*)$"
    ):
        read_json(path)


def test_arrays_that_were_written_are_read_and_the_folder_is_made(tmp_path):
    arrays = {"steps": np.arange(3), "names": np.array(["a", "Größe"])}
    write_npz(tmp_path / "new" / "a.npz", arrays)
    found = read_npz(tmp_path / "new" / "a.npz")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("scores.npz", load_scores),
        ("diagnostics.npz", draw_dormant),
        ("any.npz", lambda folder: read_npz(folder / "any.npz")),
        ("rows.npz", lambda folder: Record(folder / "rows.npz").resume(1)),
    ],
)
def test_damaged_arrays_are_named(name, read, tmp_path):
    for content in (b"", b"PK", b"not an archive"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} (can't be read|must be what .* wrote): "):
            read(tmp_path)


def test_rows_of_other_tasks_are_not_added_to(tmp_path):
    for name in ("a", "b"):
        record = Record(tmp_path / "rows.npz", {"task_names": np.array([name])})
        if name == "b":
            with pytest.raises(ValueError, match=r"another folder: .* \['a'\], and now .* \['b'\]"):
                record.resume(1)
        else:
            record.add(1, {"loss": 0.5})


def test_a_folder_is_made_or_refused_with_its_name_and_nothing_left_in_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`out` must be a folder that can be written, got .*file"):
        check_writable(tmp_path / "file" / "below")
    check_writable(tmp_path / "new" / "below")
    assert list((tmp_path / "new" / "below").iterdir()) == []
