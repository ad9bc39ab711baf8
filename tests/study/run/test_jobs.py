"""The runs of a study: what is there, in which order the rest runs, and what is said of it."""

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_study import GAMES, cell, run, study, write, write_arrays
from rich.console import Console

from sb3_moe.saving.files import read_json, write_json
from sb3_moe.study import commands
from sb3_moe.study.commands import plan, prepare, run_study, status
from sb3_moe.study.run import engine, jobs
from sb3_moe.study.run.engine import LocalEngine, environment
from sb3_moe.study.run.folder import CellFolder, State
from sb3_moe.study.run.jobs import (
    ChangedConfigError,
    locked,
    refuse_changes,
    survey,
    unfinished,
)
from sb3_moe.study.run.processes import BusyError, held
from sb3_moe.study.run.rehearsal import Pace
from sb3_moe.study.run.tuning import CHOICES, beyond, chosen
from sb3_moe.study.run.view import LiveView
from sb3_moe.study.spec.config import Architecture, StartFrom
from sb3_moe.study.spec.grid import Tune


class InstantEngine:
    """Ends every run at once; those named fail, or die without a word."""

    capacity = 2

    def __init__(self, failing=(), ending="", level=lambda cell: 10.0):
        self.failing, self.ending, self.level = failing, ending, level
        self.started, self.most, self.stopped, self._running = [], 0, False, []

    def start(self, cell, path):
        folder, made = CellFolder(path), run(cell, self.level(cell))
        folder.start({"cell": cell.to_dict(), "rollout": cell.rollout})
        if cell.name in self.failing:
            folder.fail(ValueError("no luck in [/tmp] [red]"))
        else:
            write_arrays(folder, "scores.npz", made.scores)
            folder.finish({"steps": cell.total_steps, "last_attempt": {"start": 0, "seconds": 2.0}})
        self.started.append(cell.name)
        self._running.append(cell.name)
        self.most = max(self.most, len(self._running))

    def ended(self):
        gone, self._running = self._running, []
        return dict.fromkeys(gone, self.ending)

    def stop(self):
        self.stopped = True


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0)


@pytest.fixture
def dry(monkeypatch):
    """Neither play at random, nor build networks, nor write a report."""
    levels = {game: np.ones(70) for game in GAMES}
    monkeypatch.setattr(commands, "random_returns", lambda games, episodes, **world: levels)
    monkeypatch.setattr(commands, "rehearse", lambda cells, root: None)
    monkeypatch.setattr(commands, "report", lambda study, root, **options: 0)


def go(the_jobs, engine):
    console = Console(file=io.StringIO(), width=200)
    with LiveView(the_jobs, console) as view:
        jobs.run(the_jobs, engine, view)
    return console.file.getvalue()


def test_runs_start_in_order_and_never_more_than_the_engine_takes(tmp_path):
    the_jobs, fake = survey(study(seeds=1).cells(), tmp_path), InstantEngine()
    text = go(the_jobs, fake)
    assert fake.started == [job.cell.name for job in the_jobs]
    assert fake.most == 2
    assert "[6/6]" in text
    assert {job.state.status for job in survey(study(seeds=1).cells(), tmp_path)} == {"done"}


def test_a_run_that_fails_does_not_stop_the_others_and_runs_again_only_when_asked_to(tmp_path):
    cells = study(seeds=1).cells()
    text = go(survey(cells, tmp_path), InstantEngine(failing=[cells[1].name]))
    assert "failed ValueError: no luck in [/tmp] [red]" in text
    assert [job.state.status for job in survey(cells, tmp_path)].count("done") == 5
    assert unfinished(survey(cells, tmp_path), retry=False) == []
    again = unfinished(survey(cells, tmp_path), retry=True)
    assert [job.cell.name for job in again] == [cells[1].name]
    go(again, InstantEngine())
    assert survey(cells, tmp_path)[1].state.status == "done"


def test_progress_counts_from_the_snapshot_not_from_what_an_earlier_attempt_said(
    tmp_path, monkeypatch
):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(CellFolder, "goes_on_at", lambda self: 200)
    (job, *_) = survey(study(seeds=1).cells(), tmp_path)
    job.folder.start({})
    write_json(job.folder.path / "live.json", {"steps": 450, "rate": 9.0})
    console = Console(file=io.StringIO(), width=200)
    seen = LiveView([job], console)
    seen.started(job)
    seen.refresh([job])  # only what the attempt before this one said
    clock[0] += 20
    write_json(job.folder.path / "live.json", {"steps": 300, "rate": 5.0})
    seen.refresh([job])
    first, second = console.file.getvalue().splitlines()
    assert "0 steps/s" in first
    assert "5 steps/s  0:00:20 gone" in second
    seen.ended(job, State("failed", "ValueError: no"))
    clock[0] += 20
    seen.refresh([])
    assert "1/1 runs  100%" in console.file.getvalue().splitlines()[-1]


def test_status_names_what_is_damaged_interrupted_or_being_trained(tmp_path, capsys):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    damaged, stopped, trained, *_ = survey(the_study.cells(), tmp_path)
    scores = damaged.folder.path / "scores.npz"
    scores.write_bytes(scores.read_bytes()[:100])
    for job in (stopped, trained):
        (job.folder.path / "done.json").unlink()
        write_json(job.folder.path / "live.json", {"steps": 8192})
    with held(trained.folder.path):
        assert status(the_study, tmp_path) == 1
    text = capsys.readouterr().out
    assert f"{damaged.folder.path}: damaged: scores.npz can't be read" in text
    assert "interrupted at 8,192 of 163,840 steps, goes on from 0" in text
    assert f"{trained.folder.path}: being trained at 8,192 of" in text
    assert "1 damaged, 1 interrupted, 1 being trained, 3 done" in text
    assert "run --retry" in text


def test_another_configuration_is_refused_with_the_difference_before_anything_runs(tmp_path, dry):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    changed = study(seeds=1, arguments={"learning_rate": 0.1})
    rule = r"arguments.learning_rate: None -> 0.1"
    for command in (
        lambda: status(changed, tmp_path),
        lambda: plan(changed, tmp_path, 1),
        lambda: run_study(changed, tmp_path, lambda root: InstantEngine()),
    ):
        with pytest.raises(ChangedConfigError, match=rule):
            command()


def test_more_seeds_and_networks_are_no_change(tmp_path):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    larger = survey(study(2, ("dense", "soft-big", "task-big")).cells(), tmp_path)
    refuse_changes(larger)
    assert len(unfinished(larger, retry=False)) == 18 - 6


def test_a_run_that_failed_before_its_first_snapshot_may_be_corrected(tmp_path):
    cells = study(seeds=1).cells()
    go(survey(cells, tmp_path), InstantEngine(failing=[each.name for each in cells]))
    refuse_changes(survey(study(seeds=1, arguments={"gamma": 0.9}).cells(), tmp_path))


def test_a_study_runs_what_is_missing_and_stops_its_engine(tmp_path, dry, capsys):
    fake = InstantEngine()
    assert run_study(study(seeds=1), tmp_path, lambda root: fake) == 0
    assert fake.stopped
    assert len(fake.started) == 6
    assert read_json(tmp_path / "study.json")["study"]["name"] == "made-up"
    assert run_study(study(seeds=1), tmp_path, lambda root: pytest.fail("nothing is left")) == 0
    assert "6 done" in capsys.readouterr().out


def test_a_study_whose_run_failed_says_so(tmp_path, dry):
    the_study = study(seeds=1)
    fake = InstantEngine(failing=[the_study.cells()[0].name])
    assert run_study(the_study, tmp_path, lambda root: fake) == 1


def test_a_folder_that_cant_be_written_or_holds_a_page_of_ones_own_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`out` must be a folder that can be written, got .*file"):
        run_study(study(seeds=1), tmp_path / "file", lambda root: InstantEngine())
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"`out` must be a folder of its own.*README.md would"):
        run_study(study(seeds=1), tmp_path, lambda root: InstantEngine())


@pytest.mark.parametrize("before", [None, '{"SpaceInvaders": [1', '{"SpaceInvaders": [1.0]}'])
def test_the_random_policy_is_measured_unless_it_has_been(tmp_path, monkeypatch, before):
    the_study, path, asked = study(random_episodes=15), tmp_path / "random.json", []

    def measured(games, episodes, **world):
        asked.append((episodes, world.get("no_op_max")))
        return {game: np.ones(-(-episodes // 10) * 10) for game in games}

    monkeypatch.setattr(commands, "random_returns", measured)
    if before is not None:
        path.write_text(before)
    prepare(the_study, tmp_path)
    prepare(the_study, tmp_path)
    assert asked == [(15, None)]
    assert read_json(path) == {game: [1.0] * 20 for game in GAMES}
    prepare(replace(the_study, random_episodes=21), tmp_path)
    prepare(replace(the_study, random_episodes=21, no_op_max=30), tmp_path)
    assert asked == [(15, None), (21, None), (21, 30)]


def test_a_second_study_is_kept_out_of_a_folder(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(RuntimeError, match=r"another process is at work in"),
        locked(tmp_path),
    ):
        pass


def test_a_plan_takes_speeds_from_runs_that_are_done_and_rehearses_the_others(
    tmp_path, capsys, monkeypatch
):
    the_study = study(2, ("dense", "soft-big"))
    write(tmp_path, study(1, ("dense",)), lambda cell: 5.0, seconds=16.384)
    rehearsed = []

    def rehearse(cell, seconds):
        rehearsed.append(cell.architecture.name)
        return Pace(20_000.0, 1.0)

    monkeypatch.setattr(commands, "rehearsed_pace", rehearse)
    assert plan(the_study, tmp_path, 1) == 0
    text = capsys.readouterr().out
    assert "12 runs, 3 done" in text
    assert "dense: 3 runs left, 10,000 steps/s, one process, as in runs that are done" in text
    assert "soft-big: 6 runs left, 20,000 steps/s, one process, measured now" in text
    assert rehearsed == ["soft-big"]
    # 163,840 steps each: 3 at 10,000 a second, and 6 at 20,000, which take a second to start.
    assert "about 0:01:44 with 1 processes" in text


def test_a_plan_names_a_network_that_cant_be_built_and_a_start_that_isnt_there(tmp_path, capsys):
    later = Architecture(name="later", start_from=StartFrom(model=str(tmp_path / "teacher.moe")))
    wrong = Architecture(name="wrong", policy_kwargs={"num_expert": 3})
    the_study = replace(study(1, regimes=("mtrl",)), architectures=(later, wrong))
    with pytest.raises(ValueError, match=r"'wrong' can't be built: .*'num_expert'"):
        plan(the_study, tmp_path, processes=2)
    assert "later begins with" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"`processes` must be at least 1, got 0"):
        plan(the_study, tmp_path, processes=0)


TUNE = Tune(argument="learning_rate", values=(0.001, 0.01), seeds=(100, 101), extensions=2)


def best_at(value):
    """Give the level of a network that learns most with a value of the learning rate."""
    return lambda cell: (
        10.0 - abs(np.log10(cell.architecture.arguments.get("learning_rate", value) / value))
    )


def test_each_network_takes_its_best_value_on_development_seeds_then_fresh_seeds_run(tmp_path, dry):
    own = Architecture(name="own", policy_kwargs={"placement": "none"}, arguments={
        "learning_rate": 0.5
    })  # fmt: skip
    the_study = replace(study(2, tune=TUNE, regimes=("mtrl",)))
    the_study = replace(the_study, architectures=(*the_study.architectures, own))
    fake = InstantEngine(level=best_at(0.1))
    assert run_study(the_study, tmp_path, lambda root: fake) == 0
    found = chosen(the_study, tmp_path)
    rates = {each.name: each.arguments["learning_rate"] for each in found.architectures}
    # The best of the grid was at its edge twice, so that it was extended by its ratio.
    assert rates == {"dense": 0.1, "soft-big": 0.1, "own": 0.5}
    scores = read_json(tmp_path / CHOICES)["networks"]["dense"]
    assert [value for value, _ in scores["scores"]] == [0.001, 0.01, 0.1, 1.0]
    assert not scores["at_the_edge"]
    seeds = {name.rpartition("-s")[2] for name in fake.started if "@" in name}
    assert seeds == {"100", "101"}
    assert sum("@" not in name for name in fake.started) == 3 * 2
    assert found.tune is None
    assert {each.seed for each in found.cells()} == {0, 1}
    run_study(the_study, tmp_path, lambda root: pytest.fail("nothing is left"))


def test_what_was_chosen_stays_and_another_question_is_refused(tmp_path, dry):
    the_study = study(1, ("dense",), tune=TUNE, regimes=("mtrl",))
    run_study(the_study, tmp_path, lambda root: InstantEngine(level=best_at(0.01)))
    asked = replace(the_study, tune=replace(TUNE, values=(0.1, 0.2)))
    with pytest.raises(ValueError, match=r"tune.json was made with another `tune`"):
        run_study(asked, tmp_path, lambda root: InstantEngine())
    more = replace(study(1, tune=TUNE, regimes=("mtrl",)))
    fake = InstantEngine(level=best_at(0.01))
    run_study(more, tmp_path, lambda root: fake)
    assert not any(name.startswith("mtrl-SpaceInvaders.Breakout-dense") for name in fake.started)


def test_nothing_is_chosen_while_a_development_run_is_missing(tmp_path, dry, capsys):
    the_study = study(1, ("dense",), tune=TUNE, regimes=("mtrl",))
    name = "mtrl-SpaceInvaders.Breakout-dense@learning_rate=0.01-s100"
    assert run_study(the_study, tmp_path, lambda root: InstantEngine(failing=[name])) == 1
    assert not (tmp_path / CHOICES).exists()
    assert "1 failed, 3 done" in capsys.readouterr().out.replace(
        "3 done, 1 failed", "1 failed, 3 done"
    )


@pytest.mark.parametrize(
    ("values", "best", "further"),
    [
        ([0.001, 0.01], 0.01, 0.1),
        ([0.001, 0.01, 0.1], 0.001, 0.0001),
        ([0.001, 0.01, 0.1], 0.01, None),
        ([32, 64], 64, 128),
        ([1, 2, 4], 1, None),
        ([0.0, 0.1], 0.0, -0.1),
        ([0.0, 0.1], 0.1, 0.2),
    ],
)
def test_a_grid_goes_on_beyond_its_edge(values, best, further):
    assert beyond(values, best) == further


def test_children_get_variables_that_the_user_has_not_set(monkeypatch):
    monkeypatch.setenv("MINE", "1")
    with environment({"MINE": "2", "THEIRS": "3"}):
        assert (os.environ["MINE"], os.environ["THEIRS"]) == ("1", "3")
    assert "THEIRS" not in os.environ


def test_a_run_that_fails_in_its_process_leaves_its_error_and_its_output(tmp_path):
    local, bad = LocalEngine(1, tmp_path / ".jax"), cell(arguments={"batch_size": 1})
    path = tmp_path / "cells" / bad.name
    local.start(bad, path)
    while not (gone := local.ended()):
        time.sleep(0.05)
    assert gone == {bad.name: ""}
    assert survey([bad], tmp_path)[0].state.status == "failed"
    assert (path / "log.txt").exists()


def test_a_run_in_whose_folder_another_process_works_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 0)
    with held(tmp_path), pytest.raises(BusyError, match=r"another process is at work in"):
        engine.work(cell().to_dict(), str(tmp_path))
    assert not (tmp_path / "error.json").exists()


def test_a_run_that_another_process_has_finished_is_not_trained_again(tmp_path):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    job = survey(study(seeds=1).cells(), tmp_path)[0]
    engine.work(job.cell.to_dict(), str(job.folder.path))
    assert job.folder.state() == State("done")
    assert not list(Path(job.folder.path).glob("progress-*"))


def with_starts():
    """Build a study whose second network begins with the first one's model."""
    dense = Architecture(name="dense", policy_kwargs={"placement": "none"})
    grown = Architecture(name="grown", start_from=StartFrom(architecture="dense"))
    # The one that waits comes first.
    return replace(study(seeds=1), architectures=(dense, grown)).cells()[::-1]


def test_a_run_waits_for_the_one_that_it_begins_with(tmp_path):
    cells, fake = with_starts(), InstantEngine()
    go(survey(cells, tmp_path), fake)
    assert sorted(fake.started) == sorted(each.name for each in cells)
    for each in cells:
        if each.start is not None:
            assert fake.started.index(each.start) < fake.started.index(each.name)


def test_a_run_whose_start_failed_is_left_out_with_the_reason(tmp_path):
    cells = with_starts()
    starts = [each.start for each in cells if each.start is not None]
    fake = InstantEngine(failing=starts)
    text = go(survey(cells, tmp_path), fake)
    assert sorted(fake.started) == sorted(starts)
    for start in starts:
        assert f"{start}, its start, is not done; run again to go on" in text


def test_what_a_folder_says_is_read_as_it_was_written(tmp_path):
    for each in with_starts():
        assert type(each).from_dict(json.loads(json.dumps(each.to_dict()))) == each
