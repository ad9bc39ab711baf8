"""Runs in processes of their own give the same scores wherever, and however often, they ran."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sb3_moe.study.config import load_study, read_study
from sb3_moe.study.engine import LocalEngine, SlurmEngine, work
from sb3_moe.study.folder import BusyError, RunFolder, held, survey

PATIENCE = 1800
STUDY = """
name: one
tasks: [[CartPole-v1, {max_episode_steps: 50}]]
preset: none
regimes: [crl]
architectures: [soft-big]
n_envs: 2
steps_per_task: 2048
arguments: {n_steps: 64, batch_size: 64, n_epochs: 5}
evaluation: {points: 4, episodes: 5}
checkpoints: 7
random_episodes: 10
"""
(RUN,) = read_study(STUDY, Path()).runs()


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def finished(engine, folder):
    """Train the run in a folder to its end, and return its scores."""
    engine.start(RUN, folder.path)
    try:
        wait_for(engine.ended)
    finally:
        engine.stop()
    assert folder.state() == ("done", "")
    return folder.scores()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The scores of the run in this process."""
    folder = RunFolder(tmp_path_factory.mktemp("undisturbed") / "run")
    folder.start({})
    folder.fail(ValueError("in an earlier attempt"))
    for _ in range(2):  # the second finds it done
        work(RUN.to_dict(), str(folder.path))
    assert folder.state() == ("done", "")
    return folder.scores()


def test_a_process_that_is_killed_goes_on_from_its_snapshot_as_if_nothing_had_happened(
    undisturbed, tmp_path
):
    folder, engine = RunFolder(tmp_path / "run"), LocalEngine(1)
    engine.start(RUN, folder.path)
    wait_for(folder.checkpoints)
    os.kill(engine._running[RUN.name].pid, signal.SIGKILL)
    while not (ended := engine.ended()):
        time.sleep(0.01)
    assert "was ended by SIGKILL, as when memory runs out" in ended[RUN.name]
    assert folder.state().status == "interrupted"
    np.testing.assert_equal(finished(engine, folder), undisturbed)
    starts = sorted(int(path.stem.split("-")[1]) for path in folder.path.glob("progress-*.csv"))
    assert starts[0] == 0
    assert starts[1] > 0


def command(study, out, *options):
    words = [sys.executable, "-m", "sb3_moe", "study", "run", study, "--out", out, *options]
    return list(map(str, words))


@pytest.mark.full  # half a minute, most of it Ray's start
def test_ray_gives_the_scores_of_the_local_engine(undisturbed, tmp_path):
    pytest.importorskip("ray", reason="needs the study extra")
    (tmp_path / "study.yaml").write_text(STUDY)
    # In a process of its own: Ray forks.
    options = ["--engine", "ray", "--address", "local"]
    line = command(tmp_path / "study.yaml", tmp_path / "out", *options)
    ended = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    np.testing.assert_equal(RunFolder(tmp_path / "out" / "runs" / RUN.name).scores(), undisturbed)


def test_submitit_gives_the_scores_of_the_local_engine(undisturbed, tmp_path):
    pytest.importorskip("submitit", reason="needs the slurm extra")
    engine = SlurmEngine(tmp_path, cluster="local", timeout_min=10)
    assert engine.capacity == LocalEngine(None).capacity
    np.testing.assert_equal(finished(engine, RunFolder(tmp_path / RUN.name)), undisturbed)


@pytest.fixture
def running(tmp_path):
    """A study at work on its only run: its process, the file of what it prints, and the job."""
    path, out, printed = tmp_path / "study.yaml", tmp_path / "out", tmp_path / "printed.txt"
    path.write_text(STUDY.replace("2048", "2048000"))
    job = survey(load_study(str(path)).runs(), out)[0]
    with printed.open("w") as file:
        # A session of its own: whatever is left of it at the end can be killed.
        line = command(path, out)
        process = subprocess.Popen(line, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(lambda: job.folder.last_logged() or process.poll() is not None)
        assert process.poll() is None, printed.read_text()
        yield process, printed, job
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGKILL, -9, marks=pytest.mark.full), (signal.SIGTERM, 130)],
)
def test_a_study_that_is_stopped_takes_the_processes_of_its_runs_along(running, number, code):
    process, printed, job = running
    with pytest.raises(BusyError), held(job.folder.path):
        pass
    # The parent alone gets the signal, as from a scheduler or a `kill`.
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    assert ("run again to go on" in printed.read_text()) == (number == signal.SIGTERM)
    with held(job.folder.path, patience=PATIENCE):
        assert job.folder.state().status == "interrupted"
