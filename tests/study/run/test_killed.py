"""Whole smoke studies, killed at random moments: minutes each, so only with ``-m full``."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sb3_moe.study.run.jobs import survey
from sb3_moe.study.spec.grid import load_study

pytestmark = pytest.mark.full
pytest.importorskip("gymnax", reason="needs the minatar extra")

PATIENCE = 1200
LATEST_KILL = 60
# Eight are killed once, two twice.
KILLS = [1] * 8 + [2] * 2


def start(out):
    command = [sys.executable, "-m", "sb3_moe.study", "run", "smoke", "--out", str(out)]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A group of its own, so that a kill takes the processes of the cells along.
        start_new_session=True,
    )


def checkpoints(out):
    return set(out.glob("cells/*/checkpoints/step-*"))


def kill_after_a_checkpoint(out, delay):
    """Start the study, wait for a new checkpoint and then some seconds, and kill it."""
    before, process = checkpoints(out), start(out)
    end = time.monotonic() + PATIENCE
    while checkpoints(out) <= before:
        assert process.poll() is None, "the study ended before it wrote a checkpoint"
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(delay)
    assert process.poll() is None, f"the study ended before it could be killed, after {delay:.0f} s"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def results(out):
    """Return the scores and diagnostics of every cell of a study that is done."""
    jobs = survey(load_study("smoke").cells(), out)
    assert {job.state.status for job in jobs} == {"done"}
    return {
        (job.cell.name, kind, name): values
        for job in jobs
        for kind, arrays in (("s", job.folder.scores()), ("d", job.folder.diagnostics()))
        for name, values in arrays.items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert start(out).wait(PATIENCE) == 0
    return results(out)


@pytest.mark.parametrize(("seed", "kills"), list(enumerate(KILLS)))
def test_a_study_that_is_killed_ends_with_the_scores_of_an_undisturbed_one(
    undisturbed, tmp_path, seed, kills
):
    moments = random.Random(seed)
    for _ in range(kills):
        kill_after_a_checkpoint(tmp_path, moments.uniform(0, LATEST_KILL))
    assert start(tmp_path).wait(PATIENCE) == 0
    found = results(tmp_path)
    assert set(found) == set(undisturbed)
    for where, values in undisturbed.items():
        if where[-1].startswith("weight_change/"):
            continue  # since the measurement before, whose weights a new process doesn't have
        np.testing.assert_array_equal(found[where], values, err_msg=str(where))
    assert (tmp_path / "report" / "index.html").exists()
