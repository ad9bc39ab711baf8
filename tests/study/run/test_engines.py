"""Cells in processes of their own give the same scores wherever, and however often, they ran."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sb3_moe.study.run.engine import LocalEngine, SlurmEngine
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.spec.architectures import named_architecture
from sb3_moe.study.spec.config import CellConfig, Evaluation
from sb3_moe.study.spec.grid import load_study

pytest.importorskip("gymnax", reason="needs the minatar extra")

CELL = CellConfig(
    regime="crl",
    games=("Breakout",),
    order=("Breakout",),
    architecture=named_architecture("soft-big"),
    n_envs=10,
    steps_per_task=12 * 1280,
    arguments={"batch_size": 640},
    evaluation=Evaluation(points=4, episodes=10),
    checkpoints=5,
)
PATIENCE = 240


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def finished(engine, folder):
    """Run the cell in a folder to its end, and return its scores."""
    engine.start(CELL, folder.path)
    try:
        wait_for(engine.ended)
    finally:
        engine.stop()
    assert folder.state() == ("done", "")
    return folder.scores()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    return finished(LocalEngine(1, cache), CellFolder(tmp_path_factory.mktemp("undisturbed")))


def assert_same(scores, others):
    assert set(scores) == set(others)
    for name, values in scores.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)


def test_a_process_that_is_killed_goes_on_from_its_snapshot_as_if_nothing_had_happened(
    undisturbed, tmp_path, cache
):
    folder, engine = CellFolder(tmp_path), LocalEngine(1, cache)
    engine.start(CELL, tmp_path)
    wait_for(folder.checkpoints)
    os.kill(engine._running[CELL.name].pid, signal.SIGKILL)
    wait_for(engine.ended)
    assert folder.state().status == "interrupted"

    assert_same(finished(engine, folder), undisturbed)
    starts = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("progress-*.csv"))
    assert starts[0] == 0
    assert starts[1] > 0


def test_ray_gives_the_scores_of_the_local_engine(undisturbed, tmp_path):
    pytest.importorskip("ray", reason="needs the study extra")
    study = tmp_path / "study.yaml"
    study.write_text(
        """
name: one
games: [Breakout]
regimes: [crl]
architectures: [soft-big]
n_envs: 10
steps_per_task: 15360
arguments: {batch_size: 640}
evaluation: {points: 4, episodes: 10}
checkpoints: 5
random_episodes: 10
"""
    )
    assert load_study(str(study)).cells() == [CELL]
    # In a process of its own: Ray forks, and jax is loaded in this one.
    options = ["--out", str(tmp_path / "out"), "--engine", "ray", "--address", "local"]
    command = [sys.executable, "-m", "sb3_moe", "study", "run", str(study), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "os.fork" not in ended.stderr
    assert_same(CellFolder(tmp_path / "out" / "cells" / CELL.name).scores(), undisturbed)


def test_submitit_gives_the_scores_of_the_local_engine(undisturbed, tmp_path):
    pytest.importorskip("submitit", reason="needs the slurm extra")
    engine = SlurmEngine(tmp_path / "logs", cluster="local", timeout_min=10)
    assert_same(finished(engine, CellFolder(tmp_path / CELL.name)), undisturbed)
