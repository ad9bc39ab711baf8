"""However a study is stopped, nothing of it works on, and no two processes work on one cell."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.jobs import survey
from sb3_moe.study.run.processes import BusyError, held, interrupted_by_signals
from sb3_moe.study.spec.grid import load_study

PATIENCE = 120

STUDY = """
name: endless
games: [CartPole-v1]
regimes: [mtrl]
architectures: [dense]
n_envs: 2
steps_per_task: 3200000
arguments: {n_steps: 16, batch_size: 16, n_epochs: 1}
evaluation: {points: 1, episodes: 2}
random_episodes: 10
"""


@pytest.fixture
def running(tmp_path):
    """A study at work on its only cell: its process, the file of what it prints, and the job."""
    path, out, printed = tmp_path / "study.yaml", tmp_path / "out", tmp_path / "printed.txt"
    path.write_text(STUDY)
    job = survey(load_study(str(path)).cells(), out)[0]
    command = [sys.executable, "-m", "sb3_moe", "study", "run", str(path), "--out", str(out)]
    with printed.open("w") as file:
        # A session of its own: whatever is left of it at the end can be killed.
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        end = time.monotonic() + PATIENCE
        while not job.folder.live():
            assert process.poll() is None, printed.read_text()
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.05)
        yield process, printed, job
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_a_study_that_is_stopped_takes_the_processes_of_its_cells_along(running, number, code):
    process, printed, job = running
    with pytest.raises(BusyError), held(job.folder.path):
        pass
    # The parent alone gets the signal, as from a scheduler or a `kill`.
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    assert ("run again to go on" in printed.read_text()) == (number == signal.SIGTERM)
    with held(job.folder.path, patience=10):
        assert job.folder.state().status == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_a_process_interrupt_it_like_ctrl_c(number):
    with handled(number, signal.SIG_DFL):
        with pytest.raises(KeyboardInterrupt, match=number.name), interrupted_by_signals():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL


def test_a_hangup_is_ignored_where_it_was_as_under_nohup():
    with handled(signal.SIGHUP, signal.SIG_IGN), interrupted_by_signals():
        signal.raise_signal(signal.SIGHUP)


@contextlib.contextmanager
def handled(number, handler):
    """Handle a signal so, however these tests were started."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_second_process_is_kept_out_of_a_folder(tmp_path):
    with (
        held(tmp_path / "cell"),
        pytest.raises(BusyError, match=r"another process is at work in .*cell"),
        held(tmp_path / "cell"),
    ):
        pass


def test_a_process_that_is_about_to_let_go_is_waited_for(tmp_path):
    inside, waited = threading.Event(), []

    def other():
        with held(tmp_path):
            inside.set()
            time.sleep(0.3)
            waited.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    with held(tmp_path, patience=10):
        assert waited
    thread.join()


def test_starting_anew_keeps_the_lock_that_others_may_wait_for(tmp_path):
    folder = CellFolder(tmp_path)
    folder.start({})
    with held(tmp_path):
        folder.make_ready()
        with pytest.raises(BusyError), held(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
