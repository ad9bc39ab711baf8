"""A run's folder says what state it is in, whatever happened to it."""

import shutil
import zipfile

import pytest
from made_up_study import ROLLOUT, planned, run, study, write

from sb3_moe.saving.files import read_json, write_npz
from sb3_moe.study.engine import unfinished
from sb3_moe.study.folder import BusyError, RunFolder, differences, held, refuse_changes, survey


@pytest.fixture
def done(tmp_path):
    folder = RunFolder(tmp_path / "run")
    made = run(planned())
    folder.start({"run": planned().to_dict()})
    write_npz(folder.path / "scores.npz", made.scores)
    write_npz(folder.path / "diagnostics.npz", made.diagnostics)
    folder.finish({"steps": 1})
    return folder


def test_a_folder_is_missing_interrupted_or_done(done, tmp_path):
    assert done.state() == ("done", "")
    (done.path / "done.json").unlink()
    assert done.state().status == "interrupted"
    empty = RunFolder(tmp_path / "empty")
    assert empty.state().status == "missing"
    empty.path.mkdir()
    (empty.path / ".config.json.12.tmp").write_text("{")
    (empty.path / "log.txt").write_text("hello")  # what a process printed is nothing of the run
    assert empty.state().status == "missing"


def test_a_failure_is_recorded_with_its_error_and_forgotten_when_it_runs_again(done):
    (done.path / "done.json").unlink()
    try:
        raise ValueError("the loss is NaN\nand more")
    except ValueError as error:
        done.fail(error)
    assert done.state() == ("failed", "ValueError: the loss is NaN")
    assert "test_folder.py" in read_json(done.path / "error.json")["traceback"]
    with held(done.path):
        done.make_ready()
        # The lock, for which others may wait, stays.
        with pytest.raises(BusyError), held(done.path):
            pass
    assert done.state().status == "missing"  # there is no snapshot to go on from


@pytest.mark.parametrize("name", ["config.json", "scores.npz", "diagnostics.npz", "done.json"])
def test_a_file_that_is_cut_gone_or_changed_is_damage_that_names_it(done, name):
    path = done.path / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert done.state().status == "damaged"
    assert name in done.state().reason
    if name in ("config.json", "scores.npz"):
        path.unlink()
        assert done.state().status == "damaged"
        assert name in done.state().reason
    done.make_ready()
    assert done.state().status == "missing"


@pytest.fixture
def stopped(done):
    """A run that was stopped after snapshots at two and at four rollouts."""
    (done.path / "done.json").unlink()
    (done.path / "checkpoints").mkdir()
    for rollouts in (2, 4):
        path = done.path / "checkpoints" / f"step-{rollouts * ROLLOUT:012d}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("state.pkl", b"weights" * 100)
    return done


def test_a_run_goes_on_from_its_last_snapshot_that_is_whole(stopped):
    assert stopped.state() == ("interrupted", "")
    assert stopped.goes_on_at() == 4 * ROLLOUT
    latest = stopped.checkpoints()[-1]
    shutil.copy(latest, f"{latest}.bak")  # which is none of the run's
    whole = latest.read_bytes()
    latest.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    assert stopped.goes_on_at() == 2 * ROLLOUT
    status, reason = stopped.state()
    assert status == "interrupted"
    assert f"step-{4 * ROLLOUT:012d}.zip is not what" in reason
    stopped.fail(ValueError("no luck"))
    stopped.make_ready()
    assert stopped.goes_on_at() == 2 * ROLLOUT
    stopped.checkpoints()[0].write_bytes(b"")
    assert stopped.goes_on_at() == 0
    stopped.make_ready()
    assert not stopped.checkpoints()


def test_a_run_whose_scores_were_lost_does_not_go_on_without_them(stopped):
    (stopped.path / "scores.npz").unlink()
    assert stopped.state() == ("damaged", "scores.npz is missing")


def test_what_was_logged_last_is_read_from_rows_of_other_keys(tmp_path):
    log = "time/fps,time/total_timesteps,rollout/A/ep_rew_mean\n10,64,\n,,5.5\n20,128,\n3"
    (tmp_path / "progress-000000000.csv").write_text(log)
    last = {"time/fps": "20", "time/total_timesteps": "128", "rollout/A/ep_rew_mean": "5.5"}
    assert RunFolder(tmp_path).last_logged() == last
    (tmp_path / "progress-000000128.csv").touch()  # of a run that has just been resumed
    assert RunFolder(tmp_path).last_logged() == last
    assert RunFolder(tmp_path / "none").last_logged() == {}


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    write(tmp_path, study(seeds=1), lambda run: 5.0)
    changed = survey(study(seeds=1, arguments={"learning_rate": 0.1}).runs(), tmp_path)
    with pytest.raises(ValueError, match=r"arguments.learning_rate: 'not given' -> 0.1"):
        refuse_changes(changed)
    larger = survey(study(2, ("dense", "soft-big", "task-big")).runs(), tmp_path)
    refuse_changes(larger)  # more seeds and networks are no change
    assert len(unfinished(larger, retry=False)) == 18 - 6
    for job in survey(study(seeds=1).runs(), tmp_path):
        (job.folder.path / "done.json").unlink()
        job.folder.fail(ValueError("before its first snapshot, so that it may be corrected"))
    refuse_changes(survey(study(seeds=1, arguments={"learning_rate": 0.1}).runs(), tmp_path))


def test_differences_are_named_by_their_path_and_not_where_a_model_lies():
    old, new = planned().to_dict(), planned(arguments={"learning_rate": 1}, seed=3).to_dict()
    assert differences(old, new) == ["arguments.learning_rate: 'not given' -> 1", "seed: 0 -> 3"]
    # None turns off what a preset sets, so that it is not the same as nothing.
    off = planned(arguments={"clip_range_vf": None}).to_dict()
    assert differences(old, off) == ["arguments.clip_range_vf: 'not given' -> None"]
    here, there = ({"start_from": {"model": f"/{at}/agent.moe"}} for at in ("home", "data"))
    assert differences(here, there) == []
    other = {"start_from": {"model": "/home/other.moe"}}
    assert differences(here, other) == ["start_from.model: 'agent.moe' -> 'other.moe'"]
