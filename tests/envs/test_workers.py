"""Environments in worker processes: one process per core, the same numbers, errors with names."""

import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
from counting import CountingEnv, counting_tasks

from sb3_moe_envs import Cycle, MultiTaskVectorEnv, Task, TaskError
from sb3_moe_envs.vector import workers

# The tests before it may have loaded jax, which warns of forks.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr(workers, "num_cores", lambda: 2)


def plain(value):
    """Turn arrays into lists, so that what was seen can be compared."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def seen(env, steps=20, seed=3):
    actions = np.random.default_rng(0).integers(0, 2, (steps, env.num_envs))
    first = [plain(env.reset(seed=seed))] if seed is not None else []
    return first + [plain(list(env.step(each))) for each in actions]


@pytest.mark.parametrize(
    ("num_tasks", "num_envs", "schedule"),
    [(2, 7, None), (2, 3, Cycle(15, num_cycles=2))],
    ids=["uneven shares", "in turn"],
)
def test_processes_are_no_more_than_cores_and_play_what_this_process_plays(
    num_tasks, num_envs, schedule
):
    before = set(multiprocessing.active_children())
    env = MultiTaskVectorEnv(
        counting_tasks(num_tasks), num_envs, schedule=schedule, vectorization="async"
    )
    found = seen(env)
    assert len(set(multiprocessing.active_children()) - before) == 1  # and this one
    env.close()
    assert set(multiprocessing.active_children()) <= before
    here = MultiTaskVectorEnv(counting_tasks(num_tasks), num_envs, schedule=schedule)
    assert found == seen(here)
    assert any(any(step[2] + step[3]) for step in found[1:])


def test_a_run_goes_on_exactly_with_another_number_of_processes():
    def build(vectorization):
        return MultiTaskVectorEnv(counting_tasks(2), 5, vectorization=vectorization)

    first, second = build("async"), build("sync")
    seen(first, 7)
    state = first.state_dict()
    assert state["exact"]
    expected = seen(first, seed=None)
    second.load_state_dict(state)
    again = second.state_dict()
    assert seen(second, seed=None) == expected
    first.load_state_dict(again)
    assert seen(first, seed=None) == expected
    first.close()


class Dying(CountingEnv):
    """Takes its process with it."""

    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Raising(CountingEnv):
    def step(self, action):
        raise OSError("it broke")


class Locked(CountingEnv):
    def step(self, action):
        return *super().step(action)[:4], {"lock": threading.Lock()}


class Unbuilt(CountingEnv):
    def __init__(self):
        raise OSError("no such game")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Dying, "RuntimeError: its worker process ended with exit code -9"),
        (Raising, "RuntimeError: OSError: it broke"),
        (Locked, "RuntimeError: its worker process ended with exit code 1"),
    ],
    ids=["dead", "raised", "unsendable"],
)
def test_a_task_that_goes_wrong_in_a_process_is_named(kind, message):
    before = set(multiprocessing.active_children())
    # With two cores, the first task is played by another process and the second here.
    tasks = [Task("bad", env_fn=kind), Task("fine", env_fn=CountingEnv)]
    env = MultiTaskVectorEnv(tasks, vectorization="async")
    env.reset(seed=0)
    with pytest.raises(TaskError, match=rf"^task 0 \('bad'\): {message}"):
        env.step(np.zeros(2, np.int64))
    env.close()
    assert set(multiprocessing.active_children()) <= before


def test_a_task_that_cannot_be_built_in_a_process_is_named():
    tasks = [Task("bad", env_fn=Unbuilt), Task("fine", env_fn=CountingEnv)]
    message = r"`tasks\[0\]` \('bad'\) can't be built: RuntimeError: OSError: no such game"
    with pytest.raises(ValueError, match=message) as caught:
        MultiTaskVectorEnv(tasks, vectorization="async")
    assert caught.value.__cause__.__notes__[0].startswith("Where it was raised:\nTraceback")


def test_a_step_that_was_interrupted_is_not_done_once_more():
    here, interrupts = os.getpid(), [KeyboardInterrupt]

    class Interrupted(CountingEnv):
        def step(self, action):
            if os.getpid() == here and self.steps == 1 and interrupts:
                raise interrupts.pop()
            self.steps += 1
            return self._observe(), 0.0, False, False, {}

    env = MultiTaskVectorEnv([Task("one", env_fn=Interrupted)], 2, vectorization="async")
    env.reset(seed=0)
    env.step(np.zeros(2, np.int64))
    with pytest.raises(KeyboardInterrupt):
        env.step(np.zeros(2, np.int64))
    obs = env.step(np.zeros(2, np.int64))[0]["obs"]
    assert obs[:, 1].tolist() == [3, 2]  # the other process was not interrupted
    env.close()
