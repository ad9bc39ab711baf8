import json
import shutil

import numpy as np
import pytest
from made_up_study import ROLLOUT, cell, run, write_arrays

from sb3_moe.saving.files import read_json, sha256_of, write_json
from sb3_moe.study.run import folder as folder_module
from sb3_moe.study.run.folder import CellFolder


@pytest.fixture
def done(tmp_path):
    folder = CellFolder(tmp_path / "cell")
    made = run(cell())
    folder.start({"cell": cell().to_dict(), "rollout": ROLLOUT})
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


def test_a_failure_is_recorded_with_its_error_and_forgotten_when_it_runs_again(done):
    (done.path / "done.json").unlink()
    try:
        raise ValueError("the loss is NaN\nand more")
    except ValueError as error:
        done.fail(error)
    assert done.state() == ("failed", "ValueError: the loss is NaN")
    assert "test_folder.py" in read_json(done.path / "error.json")["traceback"]
    done.make_ready()
    assert done.state().status == "missing"  # there is no snapshot to go on from


@pytest.fixture
def interrupted(done, monkeypatch):
    """A run that was evaluated up to a whole snapshot at its last step."""
    monkeypatch.setattr(folder_module, "check_files", lambda path: None)
    steps = cell().total_steps
    (done.path / "checkpoints" / f"step-{steps:012d}").mkdir(parents=True)
    (done.path / "model.moe").write_bytes(b"weights")
    done.finish({"steps": steps})
    assert done.state().status == "done"
    return done


@pytest.mark.parametrize("name", ["done.json", "model.moe"])
def test_damage_beside_the_measurements_lets_a_run_go_on_from_its_snapshot(interrupted, name):
    path = interrupted.path / name
    path.write_bytes(path.read_bytes()[:3])
    assert interrupted.state().status == "damaged"
    interrupted.make_ready()
    assert interrupted.state().status == "interrupted"
    assert interrupted.goes_on_at() == cell().total_steps


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "another's"])
def test_damaged_measurements_let_a_run_start_anew(interrupted, cut):
    path = interrupted.path / "scores.npz"
    if cut:
        path.write_bytes(path.read_bytes()[:100])
    else:
        made = run(cell(), level=3.0)
        write_arrays(interrupted, "scores.npz", made.scores)
    interrupted.make_ready()
    assert interrupted.state().status == "missing"


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


def test_what_a_process_printed_is_nothing_of_the_run(tmp_path):
    (tmp_path / "log.txt").write_text("hello")
    assert CellFolder(tmp_path).state().status == "missing"


def test_a_line_more_in_the_log_is_no_damage(done):
    (done.path / "log.txt").write_text("hello")
    done.finish({"steps": 1})
    assert "log.txt" not in read_json(done.path / "done.json")["sha256"]
    (done.path / "log.txt").write_text("hello, goodbye")
    assert done.state().status == "done"


def test_files_that_a_callback_of_ones_own_wrote_are_no_results(done):
    (done.path / "mine.csv").write_text("one")
    done.finish({"steps": 1})
    (done.path / "mine.csv").write_text("one and two")  # flushed when its process ended
    assert done.state().status == "done"
    (done.path / "mine.csv").unlink()
    assert done.state().status == "done"


@pytest.mark.parametrize("position", range(20, 320, 30))
def test_flipped_bytes_are_damage_or_nothing_but_no_crash(done, position):
    (done.path / "done.json").unlink()
    path = done.path / "scores.npz"
    np.savez_compressed(path, **run(cell()).scores)
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    assert done.state().status in ("damaged", "interrupted")


def test_scores_from_a_snapshot_on_are_damage_to_a_cell_that_is_done(done):
    scores = run(cell()).scores
    write_arrays(done, "scores.npz", {name: values[3:] for name, values in scores.items()})
    done.finish({"steps": cell().total_steps})
    total = cell().total_steps
    assert done.state() == ("damaged", f"scores.npz lacks rows between steps 0 and {total}")


@pytest.fixture
def stopped(done):
    """A run that was stopped after snapshots at two and at four rollouts."""
    (done.path / "done.json").unlink()
    for rollouts in (2, 4):
        path = done.path / "checkpoints" / f"step-{rollouts * ROLLOUT:012d}"
        path.mkdir(parents=True)
        for name in ("model.zip", "state.pkl"):
            (path / name).write_bytes(b"weights" * 100)
        files = {each.name: [each.stat().st_size, sha256_of(each)] for each in path.iterdir()}
        manifest = {"format": "sb3_moe snapshot 1", "files": files}
        (path / "manifest.json").write_text(json.dumps(manifest))
    return done


def names(folder):
    return [int(path.name.removeprefix("step-")) // ROLLOUT for path in folder.snapshots()]


def test_snapshots_to_which_the_scores_reach_can_be_gone_on_from(stopped):
    assert names(stopped) == [2, 4]
    assert stopped.goes_on_at() == 4 * ROLLOUT
    assert stopped.state() == ("interrupted", "")


def test_a_copy_of_a_snapshot_is_none_of_the_runs(stopped):
    latest = stopped.checkpoints()[-1]
    shutil.copytree(latest, f"{latest}.bak")
    latest.with_name("step-000000000007").write_text("a note")
    assert names(stopped) == [2, 4]
    assert stopped.state() == ("interrupted", "")


@pytest.mark.parametrize("name", ["model.zip", "state.pkl", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_file_that_is_not_what_the_manifest_says_is_named_and_left_out(stopped, name, damage):
    assert stopped.state() == ("interrupted", "")
    path = stopped.checkpoints()[-1] / name
    content = path.read_bytes()
    path.write_bytes(content[:-10] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    if damage == "gone":
        path.unlink()
    assert names(stopped) == [2]
    status, reason = stopped.state()
    assert status == "interrupted"
    assert f"step-{4 * ROLLOUT:012d}/{name}" in reason


def test_without_a_whole_snapshot_a_cell_is_interrupted_and_starts_at_zero(stopped):
    for snapshot in stopped.checkpoints():
        (snapshot / "model.zip").unlink()
    assert names(stopped) == []
    assert stopped.goes_on_at() == 0
    assert stopped.state().status == "interrupted"


@pytest.mark.parametrize("name", ["scores.npz", "diagnostics.npz"])
def test_a_snapshot_to_which_rows_are_missing_is_damage(stopped, name):
    (stopped.path / name).unlink()
    status, reason = stopped.state()
    assert status == "damaged"
    assert stopped.goes_on_at() == 0
    assert name in reason


@pytest.mark.parametrize(("count", "usable"), [(2, [2]), (3, [2]), (4, [2, 4]), (5, [2, 4])])
def test_a_snapshot_is_used_if_the_scores_reach_to_it(stopped, count, usable):
    # A row for each rollout; that of the snapshot's own step may be yet to come.
    scores = {name: values[:count] for name, values in run(cell()).scores.items()}
    write_arrays(stopped, "scores.npz", scores)
    assert names(stopped) == usable


@pytest.mark.parametrize("rows", [[1, 2, 3, 4], [0, 3, 4], [0], []])
def test_scores_with_a_gap_before_every_snapshot_are_damage(stopped, rows):
    scores = {name: values[rows] for name, values in run(cell()).scores.items()}
    write_arrays(stopped, "scores.npz", scores)
    assert stopped.state() == ("damaged", "scores.npz lacks rows from before the snapshot")


def test_the_arrays_come_back(done):
    assert np.array_equal(done.scores()["steps"], run(cell()).steps)
    assert "dormant/pi.0" in done.diagnostics()


def test_a_probe_of_the_file_may_look_less_often_than_evaluations(stopped):
    write_json(stopped.path / "config.json", {**stopped.config(), "probes_by_itself": True})
    write_arrays(stopped, "diagnostics.npz", {"steps": np.array([0])})
    assert names(stopped) == [2, 4]
    (stopped.path / "scores.npz").unlink()
    assert stopped.state().status == "damaged"


@pytest.mark.parametrize("content", [{}, {"sha256": {}}, {"sha256": {"config.json": "0"}}])
def test_a_done_file_without_checksums_or_steps_is_damage(done, content):
    write_json(done.path / "done.json", content)
    assert done.state().status == "damaged"
