"""Runs start in order, a study goes on where it was stopped, and says what is left."""

import io
import json
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_up_study import planned, study, write, write_random, write_run
from rich.console import Console

import sb3_moe_cli as cli
from sb3_moe.saving.files import read_json
from sb3_moe.study import commands, engine, preparing
from sb3_moe.study.config import Architecture, StartFrom, Tune
from sb3_moe.study.engine import Engine, LocalEngine, run_jobs, unfinished
from sb3_moe.study.folder import BusyError, RunFolder, held, refuse_changes, survey
from sb3_moe.study.preparing import all_runs, beyond, chosen
from sb3_moe.study.results import CHOICES


class InstantEngine(Engine):
    """Finishes, or fails, each run as soon as it is asked about."""

    capacity = 2

    def __init__(self, failing=(), level=lambda run: 5.0, reason="no luck in [/tmp] [red]"):
        super().__init__()
        self.failing, self.level, self.started, self.most = failing, level, [], 0
        self.reason = reason

    def start(self, run, path):
        super().start(run, path)
        self.started.append(run.name)
        self.most = max(self.most, len(self._running))
        (job,) = survey([run], path.parent.parent)
        (path / "error.json").unlink(missing_ok=True)
        if run.name in self.failing:
            job.folder.start({"run": run.to_dict()})
            job.folder.fail(ValueError(self.reason))
        else:
            write_run(job, self.level(run))
            log = "time/fps,rollout/CartPole/ep_rew_mean\n812,21.55\n"
            (path / "progress-000000000.csv").write_text(log)

    def launch(self, run, path):
        return SimpleNamespace(done=lambda: True, exception=lambda: None)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Neither wait, nor play at random, nor build networks, nor write a report."""
    monkeypatch.setattr(engine, "POLL_SECONDS", 0)
    monkeypatch.setattr(preparing, "check_networks", lambda runs: None)
    monkeypatch.setattr(commands, "write", lambda study, root, **options: None)
    monkeypatch.setattr(preparing, "measure_random_policy", write_random)


def go(the_jobs, fake, **options):
    console = Console(file=io.StringIO(), width=200, **options)
    run_jobs(the_jobs, fake, console)
    return console.file.getvalue()


def test_runs_start_in_order_and_never_more_than_the_engine_takes(tmp_path):
    the_jobs, fake = survey(study(seeds=1).runs(), tmp_path), InstantEngine()
    text = go(the_jobs, fake, force_terminal=True)
    assert "6 of 6 runs, 0 at work" in text
    assert fake.started == [job.run.name for job in the_jobs]
    assert fake.most <= 2
    assert "[6/6]" in text
    assert text.count(" done 812 steps/s, last training episodes: CartPole 21.6\n") == 6
    assert {job.state.status for job in survey(study(seeds=1).runs(), tmp_path)} == {"done"}


def test_a_run_that_fails_does_not_stop_the_others_and_runs_again_only_when_asked_to(tmp_path):
    runs = study(seeds=1).runs()
    text = go(survey(runs, tmp_path), InstantEngine(failing=[runs[1].name]))
    assert "failed ValueError: no luck in [/tmp] [red]" in text
    assert unfinished(survey(runs, tmp_path), retry=False) == []
    again = unfinished(survey(runs, tmp_path), retry=True)
    assert [job.run.name for job in again] == [runs[1].name]
    go(again, InstantEngine())
    assert survey(runs, tmp_path)[1].state.status == "done"


def test_status_names_what_is_damaged_interrupted_or_being_trained(tmp_path, capsys):
    the_study = study(seeds=1)
    write(tmp_path, the_study, lambda run: 5.0)
    damaged, stopped, trained, *_ = survey(the_study.runs(), tmp_path)
    scores = damaged.folder.path / "scores.npz"
    scores.write_bytes(scores.read_bytes()[:100])
    for job in (stopped, trained):
        (job.folder.path / "done.json").unlink()
        log = "time/total_timesteps\n8192\n"
        (job.folder.path / "progress-000000000.csv").write_text(log)
    with held(trained.folder.path):
        assert commands.show_status(the_study, tmp_path) == 1
    text = capsys.readouterr().out
    assert f"{damaged.folder.path}: damaged: scores.npz can't be read" in text
    assert "interrupted: at 8,192 of 163,840 steps, goes on from 0" in text
    assert f"{trained.folder.path}: being trained: at 8,192 of" in text
    assert "1 damaged, 1 interrupted, 1 being trained, 3 done" in text
    assert "run --retry" in text


def test_a_plan_takes_speeds_from_runs_that_are_done_and_rehearses_the_others(
    tmp_path, capsys, monkeypatch
):
    write(tmp_path, study(1, ("dense",)), lambda run: 5.0, seconds=8.192)
    rehearsed = []
    monkeypatch.setattr(commands, "read", lambda options: (study(2), tmp_path))
    monkeypatch.setattr(
        preparing, "rehearsed_rate", lambda run, _: rehearsed.append(run.architecture.name) or 2e4
    )
    assert commands.plan(cli.Plan(processes=1)) == 0
    text = capsys.readouterr().out
    assert "12 runs, 3 done" in text
    assert "dense: 3 runs left, 10,000 steps/s, one process, as in runs that are done" in text
    assert "soft-big: 6 runs left, 20,000 steps/s, one process, measured now" in text
    assert rehearsed == ["soft-big"]
    # 163,840 steps each, of which the last attempt took half: 3 at 10,000 a second, 6 at 20,000.
    assert "about 0:01:38 with 1 processes" in text
    monkeypatch.setattr(commands, "read", lambda options: (study(1, ("dense",)), tmp_path))
    assert commands.plan(cli.Plan(processes=1)) == 0
    assert capsys.readouterr().out == f"3 runs, 3 done, folder {tmp_path}\n"


TUNE = Tune(argument="learning_rate", values=(0.001, 0.01), seeds=(100, 101), extensions=2)


def best_at(value):
    """Give the level of a network that learns most with a value of the learning rate."""
    return lambda run: (
        10.0 - abs(np.log10(run.architecture.arguments.get("learning_rate", value) / value))
    )


def test_each_network_takes_its_best_value_on_development_seeds_then_fresh_seeds_run(tmp_path):
    fixed = {"name": "own", "policy_kwargs": {"placement": "none"}}
    own = Architecture(**fixed, arguments={"learning_rate": 0.5})
    the_study = study(2, tune=TUNE, regimes=("mtrl",))
    the_study = replace(the_study, architectures=(*the_study.architectures, own))
    fake = InstantEngine(level=best_at(0.1))
    assert commands.train(the_study, tmp_path, fake)
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
    assert {run.seed for run in found.runs()} == {0, 1}


def test_values_can_be_compared_by_the_return_at_the_end(tmp_path):
    class Forgetting(InstantEngine):
        def start(self, run, path):
            super().start(run, path)
            scores = RunFolder(path).scores()
            scores["score"][-1] = run.architecture.arguments["learning_rate"] == 0.001
            np.savez(path / "scores.npz", **scores)

    for measure, rate in (("area", 0.01), ("final", 0.001)):
        asked = replace(TUNE, measure=measure, extensions=0)
        the_study = study(1, ("dense",), tune=asked, regimes=("mtrl",))
        commands.train(the_study, tmp_path / measure, Forgetting(level=best_at(0.01)))
        (dense,) = chosen(the_study, tmp_path / measure).architectures
        assert dense.arguments == {"learning_rate": rate}


def test_what_was_chosen_stays_and_another_question_is_refused(tmp_path):
    the_study = study(1, ("dense",), tune=TUNE, regimes=("mtrl",))
    commands.train(the_study, tmp_path, InstantEngine(level=best_at(0.01)))
    asked = replace(the_study, tune=replace(TUNE, values=(0.1, 0.2)))
    with pytest.raises(ValueError, match=r"tune.json was made with another `tune`"):
        commands.train(asked, tmp_path, InstantEngine())
    both = study(1, tune=TUNE, regimes=("mtrl",))
    assert [run.architecture.name for run in chosen(both, tmp_path).runs()] == ["dense"]
    fake = InstantEngine(level=best_at(1e-9))
    commands.train(both, tmp_path, fake)
    assert not any("-dense@" in name for name in fake.started)
    assert read_json(tmp_path / CHOICES)["networks"]["soft-big"]["at_the_edge"]


def test_a_network_that_another_begins_with_gets_its_value_too(tmp_path):
    begins = Architecture(name="begins", start_from=StartFrom(architecture="dense"))
    asked = study(1, ("dense",), tune=TUNE, regimes=("mtrl",))
    asked = replace(asked, architectures=(*asked.architectures, begins), only=("begins",))
    commands.train(asked, tmp_path, InstantEngine(level=best_at(0.01)))
    assert read_json(tmp_path / CHOICES)["networks"].keys() == {"dense", "begins"}
    begun_with = tmp_path / "runs" / "mtrl-SpaceInvaders.Breakout-dense-s100"
    own = RunFolder(begun_with).config()["run"]["architecture"]
    assert own["arguments"] == {"learning_rate": 0.01}


def test_a_grid_ends_before_a_value_that_the_study_refuses(tmp_path):
    rollouts = Tune(argument="n_steps", values=(128, 256), seeds=(100,))
    fake = InstantEngine(level=lambda run: run.architecture.arguments.get("n_steps", 0))
    commands.train(study(1, ("dense",), tune=rollouts, regimes=("mtrl",)), tmp_path, fake)
    scores = read_json(tmp_path / CHOICES)["networks"]["dense"]["scores"]
    assert [value for value, _ in scores] == [128, 256]


def test_a_value_with_which_a_development_run_diverged_is_the_worst(tmp_path):
    the_study = study(1, ("dense",), tune=TUNE, regimes=("mtrl",))
    name = "mtrl-SpaceInvaders.Breakout-dense@learning_rate=0.01-s100"
    commands.train(the_study, tmp_path, InstantEngine(failing=[name], reason="found NaN"))
    found = read_json(tmp_path / CHOICES)["networks"]["dense"]
    assert dict(found["scores"])[0.01] is None
    assert found["value"] != 0.01


def test_values_with_which_all_training_diverges_are_refused(tmp_path):
    the_study = study(1, ("dense",), tune=replace(TUNE, extensions=0), regimes=("mtrl",))
    names = [run.name for run in all_runs(the_study, tmp_path) if "@" in run.name]
    with pytest.raises(ValueError, match=r"`tune.values` must have one with which training does"):
        commands.train(the_study, tmp_path, InstantEngine(failing=names, reason="found NaN"))


def test_no_value_is_chosen_before_a_development_run_that_failed_is_repeated(
    tmp_path, monkeypatch, capsys
):
    the_study = study(1, ("dense",), tune=TUNE, regimes=("mtrl",))
    name = "mtrl-SpaceInvaders.Breakout-dense@learning_rate=0.01-s100"
    monkeypatch.setattr(commands, "read", lambda options: (the_study, tmp_path))
    monkeypatch.setattr(commands, "make_engine", lambda *_: InstantEngine(failing=[name]))
    assert commands.run(cli.Run()) == 1
    assert "run --retry" in capsys.readouterr().out
    monkeypatch.setattr(commands, "make_engine", lambda *_: InstantEngine())
    assert commands.run(cli.Run(retry=True)) == 0
    assert None not in dict(read_json(tmp_path / CHOICES)["networks"]["dense"]["scores"]).values()


def test_values_tuned_for_another_configuration_are_not_reused(tmp_path):
    the_study = study(1, ("dense",), tune=TUNE, regimes=("mtrl",))
    commands.train(the_study, tmp_path, InstantEngine())
    shutil.rmtree(tmp_path / "runs" / "mtrl-SpaceInvaders.Breakout-dense-s0")
    changed = replace(the_study, arguments={"n_epochs": 2})
    with pytest.raises(ValueError, match="was made with another configuration"):
        refuse_changes(survey(all_runs(changed, tmp_path), tmp_path))


def test_a_grid_goes_on_beyond_its_edge():
    for values, best, further in (
        ([0.001, 0.01], 0.01, 0.1),
        ([0.001, 0.01, 0.1], 0.001, 0.0001),
        ([0.001, 0.01, 0.1], 0.01, None),
        ([32, 64], 64, 128),
        ([1, 2, 4], 1, None),
        ([-0.1, 0.0], -0.1, -0.2),
        ([0.0, 0.1], 0.0, None),
        ([0.9, 0.99], 0.99, None),
    ):
        assert beyond(values, best) == further


CART_POLE = {"games": (), "tasks": ("CartPole-v1",), "order": ("CartPole",), "preset": "none"}
CART_POLE |= {"n_envs": 1, "steps_per_task": 2048}


def test_a_run_that_fails_in_its_process_leaves_its_error_and_its_output(tmp_path):
    local, bad = LocalEngine(1), planned(**CART_POLE, arguments={"batch_size": 1})
    path = tmp_path / "runs" / bad.name
    local.start(bad, path)
    while not (gone := local.ended()):
        time.sleep(0.05)
    assert gone == {bad.name: ""}
    assert survey([bad], tmp_path)[0].state.status == "failed"
    assert (path / "log.txt").exists()


def with_starts():
    """Give the runs of a study whose second network begins with the first one's model."""
    dense = Architecture(name="dense", policy_kwargs={"placement": "none"})
    grown = Architecture(name="grown", start_from=StartFrom(architecture="dense"))
    # The one that waits comes first.
    return replace(study(seeds=1), architectures=(dense, grown)).runs()[::-1]


def test_a_run_waits_for_the_one_that_it_begins_with_and_is_left_out_if_that_failed(tmp_path):
    runs, fake = with_starts(), InstantEngine()
    starts = {each.name: each.start for each in runs if each.start is not None}
    go(survey(runs, tmp_path / "all"), fake)
    assert sorted(fake.started) == sorted(each.name for each in runs)
    for name, start in starts.items():
        assert fake.started.index(start) < fake.started.index(name)
    fake = InstantEngine(failing=starts.values())
    text = go(survey(runs, tmp_path), fake)
    assert sorted(fake.started) == sorted(starts.values())
    for start in starts.values():
        assert f"{start}, which it begins with, is not done; run again to go on" in text


def test_a_study_says_what_it_was_and_how_it_was_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "read", lambda options: (study(seeds=1), tmp_path))
    monkeypatch.setattr(commands, "make_engine", lambda *_: InstantEngine())
    assert commands.run(cli.Run()) == 0
    said = read_json(tmp_path / "study.json")
    assert said["study"]["name"] == "made-up"
    assert {"command", "versions"} <= set(said)
    assert "6 done" in capsys.readouterr().out
    assert json.dumps(said)
    with held(tmp_path), pytest.raises(BusyError):
        commands.run(cli.Run())
