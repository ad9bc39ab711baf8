import io
import os
import shutil
import signal
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from made_up_study import GAMES, ROLLOUT, cell, run, study, write, write_arrays
from rich.console import Console

from sb3_moe.saving.files import read_json, write_json
from sb3_moe.study import commands, planning
from sb3_moe.study.commands import prepare, run_study, status
from sb3_moe.study.planning import plan
from sb3_moe.study.run import engine, jobs, runner, speeds
from sb3_moe.study.run.engine import LocalEngine, environment
from sb3_moe.study.run.folder import CellFolder, State
from sb3_moe.study.run.jobs import ChangedConfigError, refuse_changes, survey, unfinished
from sb3_moe.study.run.locks import BusyError, held
from sb3_moe.study.run.runner import locked
from sb3_moe.study.run.view import LiveView
from sb3_moe.study.spec.arguments import given
from sb3_moe.study.spec.config import Architecture
from sb3_moe.study.spec.setup import Evaluation
from sb3_moe.study.spec.start import StartFrom


class InstantEngine:
    """Ends every cell at once; those named fail, or die without a word."""

    capacity = 2

    def __init__(self, failing=(), dying=(), ending="", why="no luck", evaluations=(0.0,)):
        self.failing, self.dying, self.ending, self.why = failing, dying, ending, why
        self.evaluations = list(evaluations)
        self.cells, self.most, self.stopped = [], 0, False
        self._running = []

    def start(self, cell, path):
        folder, made = CellFolder(path), run(cell)
        folder.start({"cell": cell.to_dict()})
        if cell.name in self.failing:
            folder.fail(ValueError(self.why))
        elif cell.name not in self.dying:
            seconds = cell.total_steps / 1e4 + sum(self.evaluations)
            live = {"steps": cell.total_steps, "seconds": seconds, "rate": 1e4, "returns": {}}
            write_json(path / "live.json", {**live, "evaluations": self.evaluations})
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
        return dict.fromkeys(gone, self.ending)

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


def test_where_nothing_can_be_drawn_anew_progress_is_a_line_now_and_then(tmp_path, console):
    jobs = survey(study(seeds=1).cells(), tmp_path)
    with LiveView(jobs, console) as view:
        view.refresh([])
        view.refresh([])
    assert console.file.getvalue() == "0/6 cells  0%  0 steps/s  0:00:00 gone, ? left\n"


def test_progress_of_what_goes_on_counts_from_the_snapshot_not_from_what_was_said_last(
    tmp_path, console, monkeypatch
):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(CellFolder, "goes_on_at", lambda self: 200)
    (job, *_) = survey(study(seeds=1).cells(), tmp_path)
    total = job.cell.total_steps
    job.folder.start({})
    write_json(job.folder.path / "live.json", {"steps": 450, "rate": 9.0})
    seen = LiveView([job], console)
    seen.started(job)
    seen.refresh([job])  # only what the attempt before this one said
    clock[0] += 20
    write_json(job.folder.path / "live.json", {"steps": 300, "rate": 5.0})
    seen.refresh([job])
    left = timedelta(seconds=round((total - 300) / 5))
    assert console.file.getvalue() == (
        f"0/1 cells  {200 / total:.0%}  0 steps/s  0:00:00 gone, ? left\n"
        f"0/1 cells  {300 / total:.0%}  5 steps/s  0:00:20 gone, {left} left\n"
    )


def test_what_a_cell_that_failed_has_left_is_not_waited_for(tmp_path, console, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    jobs = survey(study(seeds=1).cells(), tmp_path)[:2]
    seen = LiveView(jobs, console)
    clock[0] += 10
    seen.ended(jobs[0], State("failed", "ValueError: no"))
    seen.ended(jobs[1], State("done"))
    seen.refresh([])
    rate = jobs[1].cell.total_steps / 10
    last = console.file.getvalue().splitlines()[-1]
    assert last == f"2/2 cells  100%  {rate:,.0f} steps/s  0:00:10 gone, 0:00:00 left"


def test_a_finished_cells_line_says_what_its_returns_are_of(tmp_path, console):
    (job, *_) = survey(study(seeds=1).cells(), tmp_path)
    job.folder.start({})
    live = {"steps": 10, "rate": 1234.0, "returns": {"Breakout": 5.0, "SpaceInvaders": 17.25}}
    write_json(job.folder.path / "live.json", live)
    LiveView([job], console).ended(job, State("done"))
    assert console.file.getvalue() == (
        f"[1/1] {job.cell.name}: done 1,234 steps/s, last training episodes: "
        "Breakout 5.0  SpaceInvaders 17.2\n"
    )


def test_what_is_not_of_the_study_is_named_and_left_alone(tmp_path, console):
    (tmp_path / "cells" / "crl-another-s0").mkdir(parents=True)
    (tmp_path / "mine.zip").write_text("")
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    write_json(tmp_path / "study.json", {})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in GAMES})
    assert run_study(study(seeds=1), tmp_path, console, lambda root: InstantEngine()) == 0
    named = f"{tmp_path} also holds what this study leaves alone: cells/crl-another-s0, mine.zip"
    assert named in console.file.getvalue()
    console.file.truncate(0)
    (tmp_path / "mine.zip").unlink()
    (tmp_path / "cells" / "crl-another-s0").rmdir()
    run_study(study(seeds=1), tmp_path, console, lambda root: InstantEngine())
    assert "leaves alone" not in console.file.getvalue()


def test_folders_within_folders_of_the_study_are_no_strangers(tmp_path):
    the_study = study(seeds=1, games=("SB3MoE/MinAtar-Breakout-v1", "Asterix"))
    write(tmp_path, the_study, lambda cell: 5.0)
    assert commands.found_besides(the_study, tmp_path) == []


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
    assert job.folder.state().status == "damaged"  # until it runs
    jobs.make_ready(again[0])
    assert job.folder.state().status == "missing"


def test_what_can_not_be_run_again_stays_as_it_is(tmp_path, console, dry, monkeypatch):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    job = survey(the_study.cells(), tmp_path)[2]
    job.folder.fail(ValueError("no luck"))

    def refuse(*arguments):
        raise ValueError("architecture 'dense' can't be built")

    monkeypatch.setattr(commands, "rehearse", refuse)
    with pytest.raises(ValueError, match=r"can't be built"):
        run_study(the_study, tmp_path, console, lambda root: InstantEngine(), retry=True)
    assert job.folder.state() == ("failed", "ValueError: no luck")
    assert (job.folder.path / "scores.npz").exists()


def test_a_cell_that_can_not_be_read_is_named_and_left_alone(tmp_path, console, monkeypatch):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    closed = survey(the_study.cells(), tmp_path)[2].folder.path / "scores.npz"
    opened = type(closed).open

    def refuse(path, *arguments, **options):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(type(closed), "open", refuse)
    assert status(the_study, tmp_path, console) == 1
    text = console.file.getvalue()
    assert "unreadable: scores.npz can't be read: [Errno 13] Permission denied" in text
    assert "5 done, 1 unreadable" in text
    assert "--retry" not in text
    assert unfinished(survey(the_study.cells(), tmp_path), retry=True) == []


def test_a_cells_folder_that_is_a_file_is_named(tmp_path, console):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    path = survey(the_study.cells(), tmp_path)[2].folder.path
    shutil.rmtree(path)
    path.symlink_to(tmp_path / "gone")
    assert status(the_study, tmp_path, console) == 1
    assert f"{path}: unreadable: it is no folder" in console.file.getvalue()


def test_a_studys_folder_that_is_a_file_is_refused(tmp_path, console):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match=r"`out` must be a folder, got .*out, which is a file"):
        status(study(seeds=1), tmp_path / "out", console)


def test_status_names_a_changed_configuration_and_lists_the_rest(tmp_path, console):
    write(tmp_path, study(seeds=1, architectures=("dense",)), lambda cell: 5.0)
    changed = study(seeds=1, ppo={"learning_rate": 0.1})
    assert status(changed, tmp_path, console) == 1
    text = console.file.getvalue()
    assert text.count("made with another configuration") == 3
    assert "ppo.learning_rate: None -> 0.1" in text
    assert "3 done, 3 missing" in text
    assert "change the configuration back" in text


def test_status_names_a_snapshot_that_is_damaged(tmp_path, console):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    job = survey(the_study.cells(), tmp_path)[0]
    (job.folder.path / "done.json").unlink()
    (job.folder.path / "checkpoints" / "step-000000008192").mkdir(parents=True)
    assert status(the_study, tmp_path, console) == 0
    assert "step-000000008192/manifest.json can't be read" in console.file.getvalue()


def test_what_looks_like_markup_is_printed_as_it_is(tmp_path, console):
    cells = study(seeds=1).cells()
    root = tmp_path / "[bold]"
    go(survey(cells, root), InstantEngine(failing=[cells[0].name], why="see [/tmp] [red]"), console)
    status(study(seeds=1), root, console)
    text = console.file.getvalue()
    assert f"{root}/cells/{cells[0].name}: failed: ValueError: see [/tmp] [red]" in text


def test_status_says_how_far_an_interrupted_cell_is(tmp_path, console):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    job = survey(the_study.cells(), tmp_path)[0]
    (job.folder.path / "done.json").unlink()
    write_json(job.folder.path / "live.json", {"steps": 8192})
    assert status(the_study, tmp_path, console) == 0
    text = console.file.getvalue().replace("\n", "")
    assert "interrupted at 8,192 of 163,840 steps, goes on from 0" in text
    assert "1 interrupted" in text
    assert "5 done" in text


def test_status_says_which_cells_are_being_trained(tmp_path, console):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda cell: 5.0)
    job = survey(the_study.cells(), tmp_path)[0]
    (job.folder.path / "done.json").unlink()
    write_json(job.folder.path / "live.json", {"steps": None})
    with held(job.folder.path):
        assert status(the_study, tmp_path, console) == 0
    assert f"{job.folder.path}: being trained, at 0 of" in console.file.getvalue()
    assert "1 being trained, 5 done" in console.file.getvalue()


def test_a_page_of_ones_own_in_the_reports_place_is_found_before_anything_runs(tmp_path, console):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"`out` must be a folder of its own.*README.md would"):
        run_study(study(seeds=1), tmp_path, console, lambda root: InstantEngine())
    assert not (tmp_path / "cells").exists()


def test_a_folder_of_another_study_is_named_before_its_report_goes(tmp_path, console, dry):
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in GAMES})
    run_study(study(seeds=1), tmp_path, console, lambda root: InstantEngine())
    assert "is of the study" not in console.file.getvalue()
    other = study(seeds=1, name="other")
    run_study(other, tmp_path, console, lambda root: InstantEngine())
    words = f"{tmp_path} is of the study 'made-up': its study.json and report go"
    assert words in console.file.getvalue()


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    changed = study(seeds=1, ppo={"learning_rate": 0.1})
    with pytest.raises(ChangedConfigError, match=r"ppo.learning_rate: None -> 0.1"):
        refuse_changes(survey(changed.cells(), tmp_path))


def test_a_plan_for_a_changed_configuration_is_refused(tmp_path, console):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    with pytest.raises(ChangedConfigError, match=r"ppo.learning_rate: None -> 0.1"):
        plan(study(seeds=1, ppo={"learning_rate": 0.1}), tmp_path, console, processes=1)


def test_a_cell_that_failed_before_its_first_snapshot_may_be_corrected(tmp_path, console):
    wrong, right = study(seeds=1, ppo={"batch_size": 7}), study(seeds=1)
    go(survey(wrong.cells(), tmp_path), InstantEngine([c.name for c in wrong.cells()]), console)
    refuse_changes(survey(right.cells(), tmp_path))
    again = unfinished(survey(right.cells(), tmp_path), retry=True)
    assert len(again) == 6
    for job in again:
        jobs.make_ready(job)
    assert {job.state.status for job in survey(right.cells(), tmp_path)} == {"missing"}


def test_a_cell_that_failed_after_a_snapshot_keeps_its_configuration(tmp_path, console):
    old, new = study(seeds=1, ppo={"batch_size": 512}), study(seeds=1)
    go(survey(old.cells(), tmp_path), InstantEngine([c.name for c in old.cells()]), console)
    folder = survey(old.cells(), tmp_path)[0].folder
    (folder.path / "checkpoints" / "step-000000008192").mkdir(parents=True)
    with pytest.raises(ChangedConfigError, match=r"ppo.batch_size: 512 -> None"):
        refuse_changes(survey(new.cells(), tmp_path))


def test_a_folder_in_which_another_process_works_is_not_cleared(tmp_path, console, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0)
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    job = survey(study(seeds=1).cells(), tmp_path)[0]
    (job.folder.path / "scores.npz").write_bytes(b"")
    (again,) = unfinished(survey(study(seeds=1).cells(), tmp_path), retry=True)
    with held(job.folder.path):
        with pytest.raises(BusyError, match=job.cell.name):
            jobs.make_ready(again)
        text = go([again], InstantEngine(), console)
    assert "another process is at work in" in text
    assert (job.folder.path / "config.json").exists()


@pytest.fixture
def dry(monkeypatch):
    """Skip what takes seconds: the random policy's games, the networks, the pictures."""
    for name in ("rehearse", "report"):
        monkeypatch.setattr(commands, name, lambda *arguments, **options: 0)
    levels = {game: np.ones(70) for game in study().games}
    monkeypatch.setattr(commands, "random_returns", lambda games, episodes, **world: levels)


@pytest.mark.usefixtures("dry")
def test_a_run_whose_cells_are_all_done_ends_with_0(tmp_path, console):
    assert run_study(study(seeds=1), tmp_path, console, lambda root: InstantEngine()) == 0


@pytest.mark.usefixtures("dry")
def test_a_process_that_dies_without_a_word_is_told_with_its_signal(tmp_path, console):
    the_study = study(seeds=1)
    ending = engine._ending(-signal.SIGKILL)
    dying = InstantEngine(dying=[the_study.cells()[0].name], ending=ending)
    assert run_study(the_study, tmp_path, console, lambda root: dying) == 1
    text = console.file.getvalue()
    assert "interrupted its process was ended by SIGKILL, as when memory runs out; run a" in text
    assert "5 done" in text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ""),
        (1, "its process ended with exit status 1, see log.txt"),
        (-signal.SIGTERM, "its process was ended by SIGTERM"),
        (engine.BUSY, "another process is at work in its folder"),
    ],
)
def test_an_exit_status_is_said_in_words(code, words):
    assert engine._ending(code) == words


@pytest.mark.usefixtures("dry")
@pytest.mark.parametrize(("command", "last"), [(plan, 1), (run_study, lambda root: None)])
def test_wrong_claims_are_refused_before_anything_runs(tmp_path, console, command, last):
    (tmp_path / "claims.yaml").write_text("claims: [{name: odd}]")
    the_study = study(seeds=1, claims=tmp_path / "claims.yaml")
    with pytest.raises(ValueError, match=r"claim"):
        command(the_study, tmp_path / "out", console, last)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("dry")
def test_a_network_that_a_claim_misspells_is_named_before_anything_runs(tmp_path, console):
    claims = """claims: [{name: c, text: t, contrasts: [{measure: final, expects: greater,
        smallest_effect: 1, plus: [{architecture: dens}], minus: [{architecture: soft-big}]}]}]"""
    (tmp_path / "claims.yaml").write_text(claims)
    the_study = study(seeds=1, claims=tmp_path / "claims.yaml")
    run_study(the_study, tmp_path / "out", console, lambda root: InstantEngine())
    first, second, *_ = console.file.getvalue().splitlines()
    assert first == "claim 'c': the study has no run of dens"
    assert "soft-big" not in second


def test_a_folder_that_a_study_cant_be_written_to_is_refused_with_its_name(tmp_path, console):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`out` must be a folder that can be written, got .*file"):
        run_study(study(seeds=1), tmp_path / "file", console, lambda root: InstantEngine())


def test_a_network_that_cannot_be_built_is_refused_before_any_cell_starts(
    tmp_path, console, monkeypatch
):
    levels = {game: np.ones(70) for game in GAMES}
    monkeypatch.setattr(commands, "random_returns", lambda games, episodes, **world: levels)
    odd = Architecture(name="odd", policy_kwargs={"net_archs": [8]})
    the_study, fake = replace(study(seeds=1), architectures=(odd,)), InstantEngine()
    with pytest.raises(ValueError, match=r"architecture 'odd' can't be built: .*net_archs"):
        run_study(the_study, tmp_path, console, lambda root: fake)
    assert fake.cells == []


@pytest.mark.parametrize("before", [None, '{"SpaceInvaders": [1', '{"SpaceInvaders": [1.0]}'])
def test_the_random_policy_is_measured_unless_it_has_been(tmp_path, monkeypatch, before):
    the_study, path, asked = study(random_episodes=15), tmp_path / "random.json", []

    def measured(games, episodes, **world):
        asked.append(episodes)
        return {game: np.ones(20) for game in games}

    monkeypatch.setattr(commands, "random_returns", measured)
    if before is not None:
        path.write_text(before)
    prepare(the_study, tmp_path)
    prepare(the_study, tmp_path)
    assert asked == [15]
    assert read_json(path) == {game: [1.0] * 20 for game in GAMES}
    prepare(replace(the_study, random_episodes=21), tmp_path)
    assert asked == [15, 21]


@pytest.mark.parametrize("by_0_1", [False, True])
def test_the_random_policy_plays_again_where_its_environment_is_another(
    tmp_path, monkeypatch, by_0_1
):
    worlds = []

    def played(games, episodes, algorithm, **world):
        worlds.append(world)
        return {game: np.ones(70) for game in games}

    monkeypatch.setattr(commands, "random_returns", played)
    plain, no_ops = study(seeds=1), study(seeds=1, no_op_max=30)
    prepare(plain, tmp_path)
    if by_0_1:
        said = read_json(tmp_path / "study.json")["study"]
        old = {name: said[name] for name in said if name not in ("tasks", "env", "no_op_max")}
        write_json(tmp_path / "study.json", {"study": old})
    prepare(replace(plain, seeds=(3,)), tmp_path)
    assert worlds == [{}]
    prepare(no_ops, tmp_path)
    prepare(no_ops, tmp_path)
    assert worlds == [{}, {"no_op_max": 30}]
    # A folder that says nothing of it is taken as it is.
    (tmp_path / "study.json").unlink()
    prepare(plain, tmp_path)
    assert len(worlds) == 2


def test_more_seeds_and_columns_are_no_change(tmp_path):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    larger = study(seeds=2, architectures=("dense", "soft-big", "task-big"))
    jobs = survey(larger.cells(), tmp_path)
    refuse_changes(jobs)
    assert len(unfinished(jobs, retry=False)) == 18 - 6


def test_a_second_runner_is_kept_out(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(RuntimeError, match=r"another process is at work in"),
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


def test_what_is_as_short_as_a_measurement_is_not_measured(tmp_path, console, monkeypatch):
    monkeypatch.setattr(planning, "measured_speeds", None)
    the_study = study(1, ("dense",), regimes=("mtrl",), steps_per_task=ROLLOUT)
    assert plan(the_study, tmp_path, console, processes=2) == 0
    text = console.file.getvalue()
    assert "16,384 steps are left, and measuring speed takes 32,768: run them at once" in text


def test_a_plan_names_a_network_that_cant_be_built_however_short_the_study_is(tmp_path, console):
    wrong = Architecture(name="wrong", policy_kwargs={"num_expert": 3})
    the_study = study(1, regimes=("mtrl",), steps_per_task=ROLLOUT)
    with pytest.raises(ValueError, match=r"'wrong' can't be built: .*'num_expert'"):
        plan(replace(the_study, architectures=(wrong,)), tmp_path, console, processes=2)


def test_a_plan_of_what_begins_with_a_file_needs_none_yet(tmp_path, console):
    model = str(tmp_path / "teacher.moe")
    later = Architecture(name="later", start_from=StartFrom(model=model))
    the_study = study(2, regimes=("mtrl",), steps_per_task=ROLLOUT)
    assert plan(replace(the_study, architectures=(later,)), tmp_path, console, processes=2) == 0
    text = console.file.getvalue().replace("\n", " ")
    assert text.count(f"later begins with {model}, which isn't there yet") == 1


def test_a_plan_of_short_cells_counts_their_starts(tmp_path, console, monkeypatch):
    """Three cells of 2.048 s, and 8 s to start each, on two processes: one of them runs two."""
    measured = speeds.Speeds({"dense": 80_000.0}, 8.0)
    monkeypatch.setattr(planning, "measured_speeds", lambda jobs, tell: measured)
    the_study = study(3, ("dense",), regimes=("mtrl",), steps_per_task=10 * ROLLOUT)
    assert plan(the_study, tmp_path, console, processes=2) == 0
    text = console.file.getvalue()
    assert "8 s besides for the start of each cell, measured" in text
    assert "about 0:00:20 with 2 processes" in text


@pytest.mark.parametrize("processes", [0, -2])
def test_a_plan_for_no_processes_is_refused(tmp_path, console, processes):
    with pytest.raises(ValueError, match=rf"`processes` must be at least 1, got {processes}"):
        plan(study(), tmp_path, console, processes)


def ignore(name, rate):
    """What a plan prints, here for nobody."""


def test_an_attempt_that_had_nothing_left_to_do_says_nothing_of_the_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(speeds, "LocalEngine", lambda processes, cache: InstantEngine())
    the_study = study(1, ("dense",))
    write(tmp_path, the_study, lambda cell: 5.0, seconds=16.384)
    first, *others = survey(the_study.cells(), tmp_path)
    attempt = {"start": first.cell.total_steps, "seconds": 0.0}
    first.folder.finish({"steps": first.cell.total_steps, "last_attempt": attempt})
    assert speeds.measured_speeds([first, *others], ignore) == ({"dense": 10_000}, None)
    assert speeds.measured_speeds([first], ignore).rates == {"dense": 1e4}  # as the engine says


def test_architectures_without_a_run_are_tried_for_a_moment(tmp_path, monkeypatch):
    engine = InstantEngine()
    monkeypatch.setattr(speeds, "LocalEngine", lambda processes, cache: engine)
    the_study = study(1, ("dense", "soft-big", "task-big"), steps_per_task=40 * ROLLOUT)
    write(tmp_path, study(1, ("dense",), steps_per_task=40 * ROLLOUT), lambda cell: 5.0, 16.384)
    told = []
    found = speeds.measured_speeds(
        survey(the_study.cells(), tmp_path), lambda name, rate: told.append((name, rate))
    )
    # 655,360 steps in 16.384 s; the others as the engine says.
    assert found.rates == pytest.approx({"dense": 4e4, "soft-big": 1e4, "task-big": 1e4})
    assert told == [*found.rates.items()]
    assert found.start >= 0
    # The first one twice: once for nothing but to compile the games.
    assert [c.architecture.name for c in engine.cells] == ["soft-big", "soft-big", "task-big"]
    assert [c.steps_per_task for c in engine.cells] == [ROLLOUT, 4 * ROLLOUT, 4 * ROLLOUT]
    assert {c.evaluation.points for c in engine.cells} == {1}


def test_a_trials_speed_counts_training_and_evaluations_as_often_as_the_run_has_them(
    tmp_path, monkeypatch
):
    # The first one compiles; the second takes 2 s for 10 episodes.
    engine = InstantEngine(evaluations=[7.0, 2.0])
    monkeypatch.setattr(speeds, "LocalEngine", lambda processes, cache: engine)
    the_study = study(1, ("dense",), regimes=("mtrl",), steps_per_task=40 * ROLLOUT)
    the_study = replace(the_study, evaluation=Evaluation(points=10, episodes=30))
    found = speeds.measured_speeds(survey(the_study.cells(), tmp_path), ignore)
    assert [c.evaluation.episodes for c in engine.cells] == [10, 10]
    # 655,360 steps at 10,000 a second, and 21 evaluations of 30 episodes, 6 s each.
    assert found.rates["dense"] == pytest.approx(655_360 / (65.536 + 21 * 6))


def test_evaluations_closer_than_rollouts_are_one_after_each(tmp_path, monkeypatch):
    engine = InstantEngine(evaluations=[2.0, 2.0])
    monkeypatch.setattr(speeds, "LocalEngine", lambda processes, cache: engine)
    the_study = study(1, ("dense",), regimes=("mtrl",), steps_per_task=8 * ROLLOUT)
    the_study = replace(the_study, evaluation=Evaluation(points=100, episodes=5))
    found = speeds.measured_speeds(survey(the_study.cells(), tmp_path), ignore)
    assert found.rates["dense"] == pytest.approx(131_072 / (13.1072 + 17 * 2))


def off_policy(arguments=None):
    """DQN on the games of made-up studies, a rollout of 16 steps, told to wait for 50,000."""
    waits = {"learning_starts": 50_000, "train_freq": 4, **(arguments or {})}
    dense = Architecture(name="dense", policy_kwargs={"placement": "none"})
    return replace(
        cell("mtrl", "dense"), algorithm="DQN", preset="none", ppo={}, arguments=waits,
        architecture=dense, n_envs=4, steps_per_task=64_000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "steps", "waits"),
    [
        (None, 1008, 0),
        # Hindsight must have seen an episode end, and nobody knows how long these are.
        ({"replay_buffer_class": "stable_baselines3:HerReplayBuffer"}, 51_008, 50_000),
        ({"replay_buffer_class": "sb3_moe.vec_env:MultiTaskReplayBuffer"}, 1008, 0),
        ({"replay_buffer_class": None}, 1008, 0),
        # What one of the user's own has nothing to draw before, nobody knows either.
        ({"replay_buffer_class": "own_parts:OwnReplayBuffer"}, 51_008, 50_000),
    ],
)
def test_an_off_policy_algorithm_learns_from_the_first_step_of_a_trial_unless_its_buffer_waits(
    tmp_path, monkeypatch, arguments, steps, waits
):
    engine = InstantEngine()
    monkeypatch.setattr(speeds, "LocalEngine", lambda processes, cache: engine)
    speeds.measured_speeds(survey([off_policy(arguments)], tmp_path), ignore)
    assert [each.steps_per_task for each in engine.cells] == [16, steps]
    assert [given(each)["learning_starts"] for each in engine.cells] == [waits, waits]


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
    local, bad = LocalEngine(1, tmp_path / ".jax"), cell(ppo={"batch_size": 1})
    path = tmp_path / "cells" / bad.name
    assert ended(local, bad, path) == {bad.name: ""}
    state = survey([bad], tmp_path)[0].state
    assert state.status == "failed"
    assert (path / "log.txt").exists()


def ended(local, cell, path):
    local.start(cell, path)
    while not (gone := local.ended()):
        time.sleep(0.05)
    return gone


def test_a_cell_in_whose_folder_another_process_works_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 0)
    with held(tmp_path), pytest.raises(BusyError, match=r"another process is at work in"):
        engine.work(cell().to_dict(), str(tmp_path))
    assert not (tmp_path / "error.json").exists()


def test_a_cell_that_another_process_has_finished_is_not_trained_again(tmp_path, monkeypatch):
    write(tmp_path, study(seeds=1), lambda cell: 5.0)
    job = survey(study(seeds=1).cells(), tmp_path)[0]
    monkeypatch.setattr(engine, "_train", lambda cell, folder: folder.clear())
    engine.work(job.cell.to_dict(), str(job.folder.path))
    assert job.folder.state() == State("done")


def with_starts(**values):
    """Build a study whose second network begins with the first one's model."""
    dense = Architecture(name="dense", policy_kwargs={"placement": "none"})
    grown = Architecture(name="grown", start_from=StartFrom(architecture="dense"))
    # The one that waits comes first.
    return replace(study(seeds=1, **values), architectures=(dense, grown)).cells()[::-1]


# A slash in an id makes a cell's folder lie in another one, as in 0.1.
@pytest.mark.parametrize("games", [GAMES, ("SB3MoE/MinAtar-Breakout-v1", "Asterix")])
def test_a_cell_waits_for_the_one_that_it_begins_with(tmp_path, console, games):
    cells, engine = with_starts(games=games), InstantEngine()
    go(survey(cells, tmp_path), engine, console)
    assert sorted(engine.started) == sorted(each.name for each in cells)
    for each in cells:
        if each.start is not None:
            assert engine.started.index(each.start) < engine.started.index(each.name)


def test_a_cell_whose_start_failed_is_left_out_with_the_reason(tmp_path, console):
    cells = with_starts()
    starts = [each.start for each in cells if each.start is not None]
    engine = InstantEngine(failing=starts)
    text = go(survey(cells, tmp_path), engine, console)
    assert sorted(engine.started) == sorted(starts)
    for start in starts:
        assert f"{start}, its start, is not done; run again to go on" in text


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refused)
    message = r"\.lock can't be locked \(Function not implemented\): put the folder on"
    with pytest.raises(OSError, match=message), held(tmp_path):
        pass


def test_processes_are_as_many_as_this_one_may_use(monkeypatch):
    monkeypatch.setattr("sb3_moe_envs.vector.workers.num_cores", lambda: 3)
    assert engine.check_processes(None) == 3
