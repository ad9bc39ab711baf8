import io
import os
import time

import pytest
from made_up_study import ROLLOUT, cell, run, study, write, write_arrays
from rich.console import Console

from sb3_moe.study import runner, speeds
from sb3_moe.study.commands import plan, status
from sb3_moe.study.engine import LocalEngine, environment
from sb3_moe.study.folder import write_json
from sb3_moe.study.runner import (
    ChangedConfigError,
    locked,
    refuse_changes,
    survey,
    unfinished,
)
from sb3_moe.study.view import LiveView


class InstantEngine:
    """Ends every cell at once; those named fail."""

    capacity = 2

    def __init__(self, failing=()):
        self.failing = failing
        self.cells, self.most, self.stopped = [], 0, False
        self._running = []

    def start(self, cell, path):
        from sb3_moe.study.folder import CellFolder

        folder, made = CellFolder(path), run(cell)
        folder.start({"cell": cell.to_dict()})
        if cell.name in self.failing:
            folder.fail(ValueError("no luck"))
        else:
            write_json(path / "live.json", {"steps": cell.total_steps, "rate": 1e4, "returns": {}})
            write_arrays(folder, "scores.npz", made.scores)
            folder.finish({"steps": cell.total_steps, "last_attempt": {"start": 0, "seconds": 2.0}})
        self.cells.append(cell)
        self._running.append(cell.name)
        self.most = max(self.most, len(self._running))

    @property
    def started(self):
        return [cell.name for cell in self.cells]

    def ended(self):
        gone, self._running = self._running, []
        return gone

    def stop(self):
        self.stopped = True


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(runner, "POLL_SECONDS", 0)


def go(jobs, engine, console):
    with LiveView(jobs, console) as view:
        runner.run(jobs, engine, view)
    return console.file.getvalue()


def test_cells_start_in_order_and_never_more_than_the_engine_takes(tmp_path, console):
    jobs, engine = survey(study(seeds=1).cells(), tmp_path), InstantEngine()
    text = go(jobs, engine, console)
    assert engine.started == [job.cell.name for job in jobs]
    assert engine.most == 2
    assert engine.stopped
    assert "[6/6]" in text
    assert {job.state.status for job in survey(study(seeds=1).cells(), tmp_path)} == {"done"}


def test_a_cell_that_fails_does_not_stop_the_others(tmp_path, console):
    cells = study(seeds=1).cells()
    text = go(survey(cells, tmp_path), InstantEngine(failing=[cells[1].name]), console)
    states = [job.state for job in survey(cells, tmp_path)]
    assert [s.status for s in states].count("done") == 5
    assert states[1] == ("failed", "ValueError: no luck")
    assert "no luck" in text


def test_a_failed_cell_runs_again_only_when_asked_to(tmp_path, console):
    cells = study(seeds=1).cells()
    go(survey(cells, tmp_path), InstantEngine(failing=[cells[1].name]), console)
    assert unfinished(survey(cells, tmp_path), retry=False) == []
    again = unfinished(survey(cells, tmp_path), retry=True)
    assert [job.cell.name for job in again] == [cells[1].name]
    go(again, InstantEngine(), console)
    assert survey(cells, tmp_path)[1].state.status == "done"


def test_a_damaged_cell_is_named_by_status_and_starts_anew_on_retry(tmp_path, console):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    job = survey(the_study.cells(), tmp_path)[2]
    scores = job.folder.path / "scores.npz"
    scores.write_bytes(scores.read_bytes()[:100])
    assert status(the_study, tmp_path, console) == 1
    text = console.file.getvalue()
    assert str(job.folder.path) in text.replace("\n", "")
    assert "scores.npz" in text
    assert "run --retry" in text
    assert unfinished(survey(the_study.cells(), tmp_path), retry=False) == []
    again = unfinished(survey(the_study.cells(), tmp_path), retry=True)
    assert [j.cell.name for j in again] == [job.cell.name]
    assert not job.folder.path.exists()


def test_status_says_how_far_an_interrupted_cell_is(tmp_path, console):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    job = survey(the_study.cells(), tmp_path)[0]
    (job.folder.path / "done.json").unlink()
    write_json(job.folder.path / "live.json", {"steps": 8192})
    assert status(the_study, tmp_path, console) == 0
    text = console.file.getvalue().replace("\n", "")
    assert "interrupted at 8,192 of 163,840 steps" in text
    assert "1 interrupted" in text
    assert "5 done" in text


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    changed = study(seeds=1, ppo={"learning_rate": 0.1})
    with pytest.raises(ChangedConfigError, match=r"ppo.learning_rate: None -> 0.1"):
        refuse_changes(survey(changed.cells(), tmp_path))


def test_more_seeds_and_columns_are_no_change(tmp_path):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    larger = study(seeds=2, architectures=("dense", "soft-big", "task-big"))
    jobs = survey(larger.cells(), tmp_path)
    refuse_changes(jobs)
    assert len(unfinished(jobs, retry=False)) == 18 - 6


def test_a_second_runner_is_kept_out(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(RuntimeError, match=r"another process is running cells in"),
        locked(tmp_path),
    ):
        pass


def test_the_plan_counts_what_is_done_and_estimates_the_rest_from_it(tmp_path, console):
    the_study = study(seeds=2)
    write(tmp_path, study(seeds=1), lambda cell: 5.0, seconds=16.384)
    assert plan(the_study, tmp_path, console, processes=2) == 0
    text = console.file.getvalue()
    assert "12 cells, 6 done" in text
    # 163,840 steps in 16.384 s; six cells of that length on two processes.
    assert "dense: 10,000 steps/s" in text
    assert "about 0:00:49 with 2 processes" in text


def test_architectures_without_a_run_are_tried_for_a_moment_evaluated_as_often(
    tmp_path, monkeypatch
):
    engine = InstantEngine()
    monkeypatch.setattr(speeds, "LocalEngine", lambda processes, cache: engine)
    the_study = study(1, ("dense", "soft-big", "task-big"), steps_per_task=40 * ROLLOUT)
    write(tmp_path, study(1, ("dense",), steps_per_task=40 * ROLLOUT), lambda cell: 5.0, 16.384)
    found = speeds.measured_speeds(survey(the_study.cells(), tmp_path))
    # 655,360 steps in 16.384 s; the others as the engine says.
    assert found == {"dense": 40_000, "soft-big": 10_000, "task-big": 10_000}
    # The first one twice: once for nothing but to compile the games.
    assert [c.architecture.name for c in engine.cells] == ["soft-big", "soft-big", "task-big"]
    # Ten evaluations in 40 rollouts are one in four.
    assert {(c.steps_per_task, c.evaluation.points) for c in engine.cells} == {(4 * ROLLOUT, 1)}


def test_the_plan_of_a_wide_grid_fits_a_terminal(tmp_path):
    narrow = Console(file=io.StringIO(), width=80)
    games = ("SpaceInvaders", "Breakout", "Asterix")
    names = ("dense-matched", "soft-big-blind")
    the_study = study(1, names, games=games, regimes=("crl",), orders="all")
    write(tmp_path, the_study, lambda cell: 5.0)
    assert plan(the_study, tmp_path, narrow, processes=2) == 0
    lines = [line.split() for line in narrow.file.getvalue().splitlines()]
    assert ["│", "soft-big-blind", *["│", "1/1"] * 6, "│"] in lines
    assert ["crl", "6:", "Asterix,", "then", "Breakout,", "then", "SpaceInvaders"] in lines


def test_no_processes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`processes` must be at least 1, got 0"):
        LocalEngine(0, tmp_path)


def test_children_get_variables_that_the_user_has_not_set(monkeypatch):
    monkeypatch.setenv("MINE", "1")
    with environment({"MINE": "2", "THEIRS": "3"}):
        assert (os.environ["MINE"], os.environ["THEIRS"]) == ("1", "3")
    assert "THEIRS" not in os.environ


def test_a_cell_that_fails_in_its_process_leaves_its_error_and_its_output(tmp_path):
    engine, bad = LocalEngine(1, tmp_path / ".jax"), cell(ppo={"n_epochs": 0})
    path = tmp_path / "cells" / bad.name
    engine.start(bad, path)
    while not engine.ended():
        time.sleep(0.05)
    state = survey([bad], tmp_path)[0].state
    assert state.status == "failed"
    assert (path / "log.txt").exists()
