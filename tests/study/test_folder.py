import json

import numpy as np
import pytest
from made_up_study import cell, run, write_arrays

from sb3_moe.study.folder import CellFolder, atomic, check_writable, read_json


@pytest.fixture
def done(tmp_path):
    folder = CellFolder(tmp_path / "cell")
    made = run(cell())
    folder.start({"cell": cell().to_dict()})
    write_arrays(folder, "scores.npz", made.scores)
    write_arrays(folder, "diagnostics.npz", made.diagnostics)
    folder.finish({"steps": 1})
    return folder


def test_a_folder_that_is_not_there_is_missing(tmp_path):
    assert CellFolder(tmp_path / "none").state().status == "missing"


def test_a_folder_with_only_temporary_files_is_missing(tmp_path):
    (tmp_path / ".config.json.12.tmp").write_text("{")
    assert CellFolder(tmp_path).state().status == "missing"


def test_a_folder_with_everything_is_done(done):
    assert done.state() == ("done", "")


def test_a_folder_without_done_is_interrupted(done):
    (done.path / "done.json").unlink()
    assert done.state().status == "interrupted"


def test_a_failure_is_recorded_with_its_error_and_can_be_forgiven(done):
    (done.path / "done.json").unlink()
    try:
        raise ValueError("the loss is NaN\nand more")
    except ValueError as error:
        done.fail(error)
    assert done.state() == ("failed", "ValueError: the loss is NaN")
    assert "test_folder.py" in read_json(done.path / "error.json")["traceback"]
    done.forgive()
    assert done.state().status == "interrupted"


@pytest.mark.parametrize("name", ["config.json", "scores.npz", "diagnostics.npz", "done.json"])
def test_a_file_cut_in_half_is_damage_that_names_the_file(done, name):
    path = done.path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    status, reason = done.state()
    assert status == "damaged"
    assert name in reason


def test_a_file_that_has_gone_is_damage_that_names_the_file(done):
    (done.path / "scores.npz").unlink()
    assert done.state() == ("damaged", "scores.npz is missing")


def test_a_file_that_was_changed_afterwards_is_damage_that_names_the_file(done):
    path = done.path / "config.json"
    path.write_text(path.read_text().replace("crl", "mtrl"))
    assert done.state() == ("damaged", "config.json is not what the run wrote")


def test_files_without_a_config_are_damage(tmp_path):
    (tmp_path / "log.txt").write_text("hello")
    assert CellFolder(tmp_path).state().status == "damaged"


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


def test_json_that_is_no_object_is_refused_with_its_type(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"a.json must hold a JSON object, got list"):
        read_json(tmp_path / "a.json")


def test_the_arrays_come_back(done):
    assert np.array_equal(done.scores()["steps"], run(cell()).steps)
    assert "dormant/pi.0" in done.diagnostics()


def test_a_folder_that_cant_be_made_is_refused_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`out` must be a folder that can be written, got .*file"):
        check_writable(tmp_path / "file" / "below")
