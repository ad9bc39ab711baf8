"""Files that version 0.1.0 wrote load, and models and runs go on as they would have with it.

Where this machine rounds as the one that made the files, everything is compared bit for bit.
"""

import functools
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import old_models
import old_options
import old_worlds
import pytest
from rich.console import Console

from sb3_moe.files.npz_file import read_npz
from sb3_moe.files.record import Record
from sb3_moe.measures import load_scores
from sb3_moe.plots import load_diagnostics
from sb3_moe.study.cli import main
from sb3_moe.study.commands import status
from sb3_moe.study.report.writing import write_report
from sb3_moe.study.run.cell import train_cell
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.jobs import survey
from sb3_moe.study.spec.grid import load_study

FILES = Path(__file__).parent / "fixtures" / "v0_1_0"
TINY = FILES / "study" / "tiny"


def load(case, path):
    algorithm = old_models.algorithm_class(case.algorithm)
    return algorithm.load(path, env=old_models.World(case), device="cpu")


@functools.cache
def behaviour(name):
    case = old_models.CASES[name]
    return old_models.behaviour(load(case, FILES / "models" / f"{name}.zip"), case)


def rounds_alike(name):
    """Tell whether what a model says at once is bit for bit what the file says."""
    expected, found = read_npz(FILES / "models" / f"{name}.npz"), behaviour(name)
    floats = [key for key, values in expected.items() if values.dtype.kind == "f"]
    return all(np.array_equal(found[key], expected[key]) for key in floats)


@pytest.fixture(scope="module")
def exact():
    """Tell whether this machine rounds as that which wrote the files.

    SB3's own network must train to theirs, and ours must say the same, whose batched products,
    convolutions and LSTMs take other ways on other processors. Else numbers may differ a little.
    """
    name = "ppo-sb3-dense"
    alike = behaviour(name)["digest"] == read_npz(FILES / "models" / f"{name}.npz")["digest"]
    return bool(alike) and all(map(rounds_alike, old_models.CASES))


def assert_same(found, expected, exact):
    """Compare arrays by name; checksums mean something only where rounding is the same."""
    assert set(found) == set(expected)
    for name, values in expected.items():
        if values.dtype.kind == "f" and not exact:
            # Training multiplies it: an expert that is chosen by a hair becomes another.
            rtol = 5e-3 if name == "sums" else 1e-4
            np.testing.assert_allclose(found[name], values, rtol=rtol, atol=1e-6, err_msg=name)
        elif exact or name != "digest":
            np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("name", list(old_models.CASES))
def test_an_old_model_acts_judges_and_trains_on_as_it_did(name, exact):
    assert_same(behaviour(name), read_npz(FILES / "models" / f"{name}.npz"), exact)


@pytest.mark.parametrize("name", old_models.POLICIES)
def test_an_old_policy_acts_as_it_did(name, exact):
    case = old_models.CASES[name]
    policy = old_models.build(case).policy_class.load(FILES / "policies" / f"{name}.pth", "cpu")
    found = {
        "actions": old_models.act(policy, old_models.observe(case)),
        "digest": np.array(old_models.digest(policy)),
    }
    # In 0.1 `predict` itself moved the bias of loss-free balancing, and so what it left behind.
    moved = "bias_rate" in case.policy_kwargs
    assert_same(found, read_npz(FILES / "policies" / f"{name}.npz"), exact and not moved)


def test_every_algorithm_and_kind_of_policy_is_among_the_old_models():
    cases = old_models.CASES.values()
    assert {case.algorithm for case in cases} == set(old_models.ALGORITHMS)
    saved = {old_models.CASES[name].algorithm for name in old_models.POLICIES}
    assert saved == set(old_models.ALGORITHMS) - {"DDPG"}  # whose policy is TD3's


OPTIONS = json.loads((FILES / "options.json").read_text())


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_the_old_spellings_of_options_build_the_old_networks(number, exact):
    policy = old_options.build(*old_options.SPELLINGS[number]).policy
    shapes = {name: list(tensor.shape) for name, tensor in policy.state_dict().items()}
    assert shapes == OPTIONS[number]["shapes"]
    assert list(shapes) == list(OPTIONS[number]["shapes"])
    if exact:
        assert old_models.digest(policy) == OPTIONS[number]["digest"]


def test_each_old_spelling_has_its_network():
    assert len(OPTIONS) == len(old_options.SPELLINGS)


SCHEDULES = json.loads((FILES / "schedules.json").read_text())


@pytest.mark.parametrize("name", list(old_worlds.SCHEDULES))
def test_a_schedule_goes_on_from_its_old_state(name):
    schedule = old_worlds.started(name)
    schedule.load_state_dict(SCHEDULES[name]["state"])
    assert schedule.state_dict() == SCHEDULES[name]["state"]
    assert old_worlds.play(schedule, 40, seed=1) == SCHEDULES[name]["tasks"]


def test_pickled_schedules_are_what_they_were():
    pickled = pickle.loads((FILES / "worlds" / "schedules.pkl").read_bytes())
    for name, schedule in pickled.items():
        schedule.start(old_worlds.NAMES, seed=5, env_index=1)
        tasks = old_worlds.play(old_worlds.started(name), 30, seed=2)
        assert old_worlds.play(schedule, 30, seed=2) == tasks


@pytest.mark.parametrize("name", list(old_worlds.WORLDS))
def test_a_world_goes_on_from_its_old_state(name, exact):
    world = old_worlds.WORLDS[name]()
    world.reset(seed=0)
    world.load_state_dict(pickle.loads((FILES / "worlds" / f"{name}.pkl").read_bytes()))
    assert_same(old_worlds.walk(world, 60), read_npz(FILES / "worlds" / f"{name}.npz"), exact)
    world.close()


@pytest.mark.parametrize("name", list(old_worlds.NORMALISERS))
def test_an_old_normaliser_normalises_as_it_did(name, exact):
    venv = old_worlds.two_tasks()
    env = old_worlds.LOADERS[name].load(str(FILES / "normalisers" / f"{name}.pkl"), venv)
    expected = read_npz(FILES / "normalisers" / f"{name}.npz")
    assert_same(old_worlds.normalised(env, name), expected, exact)
    env.reset()
    env.step(np.array([0, 1]))


def test_an_old_replay_buffer_gives_the_old_batch_and_takes_more(exact):
    folder = FILES / "buffer"
    fresh = old_worlds.replaying().get_env().venv
    env = old_worlds.PerTaskVecNormalize.load(str(folder / "normaliser.pkl"), fresh)
    model = old_worlds.DQN.load(folder / "model.zip", env=env, device="cpu")
    model.load_replay_buffer(folder / "replay_buffer.pkl")
    np.random.seed(0)
    assert_same(old_worlds.batch_of(model), read_npz(folder / "batch.npz"), exact)
    old_models.train(model, 16)


@pytest.mark.parametrize("name", list(old_worlds.RUNS))
def test_an_old_run_goes_on_from_its_snapshot_as_it_would_have(name, exact, tmp_path):
    folder = shutil.copytree(FILES / "run_folders" / name, tmp_path / name)
    model = old_worlds.finish(name, folder)
    whole = FILES / "run_folders" / f"{name}-whole"
    assert_same(old_models.weights(model.policy), read_npz(whole / "weights.npz"), exact)
    for file in set(whole.iterdir()) - {whole / "weights.npz"}:
        assert_same(read_npz(folder / file.name), read_npz(file), exact)


def test_the_files_of_an_old_run_can_be_read_and_drawn_from():
    folder = FILES / "run_folders" / "ppo-whole"
    scores = load_scores(folder)
    assert list(scores.task_names) == ["CartPole", "Acrobot"]
    assert [(block.task, block.start, block.end) for block in scores.blocks] == [
        (0, 0, 64),
        (1, 64, 128),
    ]
    assert {"dormant/pi.0", "gates/pi.middle"} <= set(load_diagnostics(folder))
    record = Record(folder / "diagnostics.npz")
    record.resume(old_worlds.TOTAL)
    assert record.last_step == old_worlds.TOTAL


def assert_holds(found, expected):
    """Compare what there was before; a later version may say more."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert_holds(found[name], value)
    else:
        assert found == expected


CELLS = json.loads((FILES / "studies" / "cells.json").read_text())


@pytest.mark.parametrize("name", list(CELLS))
def test_an_old_study_file_describes_the_cells_that_it_did(name):
    cells = load_study(str(FILES / "studies" / name)).cells()
    assert len(cells) == CELLS[name]["count"]
    assert [cells[0].name, cells[-1].name] == CELLS[name]["names"]
    assert_holds(cells[0].to_dict(), CELLS[name]["first"])
    assert_holds(cells[-1].to_dict(), CELLS[name]["last"])


@pytest.fixture
def tiny(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    return load_study(str(FILES / "study" / "tiny.yaml")), folder


def test_an_old_studys_folder_is_done_and_gives_the_old_tables(tiny):
    study, folder = tiny
    assert {job.state for job in survey(study.cells(), folder)} == {("done", "")}
    assert status(study, folder, Console(quiet=True)) == 0
    page = write_report(study, folder, folder / "again").read_text()
    assert "That command ran" not in page  # another study
    for old in (folder / "report").glob("*.csv"):
        assert (folder / "again" / old.name).read_text() == old.read_text()
    for cell in folder.glob("cells/*"):
        model = old_worlds.PPO.load(cell / "model.zip", device="cpu")
        assert model.num_timesteps == 320


@pytest.mark.full
def test_an_old_cell_that_was_stopped_comes_to_the_old_scores(tiny, exact):
    study, folder = tiny
    cell = study.cells()[0]
    stopped = CellFolder(folder / "cells" / cell.name)
    (stopped.path / "done.json").unlink()
    assert stopped.state() == ("interrupted", "")
    train_cell(cell, stopped, trust=True)
    assert_same(stopped.scores(), read_npz(TINY / "cells" / cell.name / "scores.npz"), exact)


@pytest.mark.full
def test_the_smoke_study_comes_to_the_old_scores(tmp_path, exact):
    if not exact:
        pytest.skip("this machine rounds otherwise than the one that made the scores")
    arguments = ["run", str(FILES / "studies" / "smoke.yaml"), "--out", str(tmp_path)]
    assert main([*arguments, "--processes", "2"]) == 0
    found = {
        f"{path.parent.name}/{name}": values
        for path in tmp_path.glob("cells/*/scores.npz")
        for name, values in read_npz(path).items()
    }
    assert_same(found, read_npz(FILES / "smoke.npz"), exact)
    random = json.loads((tmp_path / "random.json").read_text())
    assert random == json.loads((FILES / "smoke_random.json").read_text())
