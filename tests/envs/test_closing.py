"""A world that can't be built leaves nothing open of what it built."""

from __future__ import annotations

import multiprocessing

import pytest
from counting import CountingEnv

import sb3_moe
from sb3_moe_envs import Interleave, MultiTaskEnv, make_multitask_vector
from sb3_moe_envs.vector import workers


class Door(CountingEnv):
    """Counts itself among those that are open."""

    def __init__(self, is_open, jams=False, **kwargs):
        super().__init__(**kwargs)
        self.is_open, self.jams = is_open, jams
        is_open.append(self)

    def close(self):
        if self.jams:
            raise OSError("it jams")
        if self in self.is_open:
            self.is_open.remove(self)


def unbuilt():
    raise OSError("no such game")


def lone(tasks, **kwargs):
    return MultiTaskEnv(tasks, num_envs=1, **kwargs)


def by_episodes(tasks, **kwargs):
    return make_multitask_vector(tasks, schedule=Interleave("episodes"), **kwargs)


BUILDS = pytest.mark.parametrize("build", [lone, make_multitask_vector, by_episodes])


@BUILDS
def test_a_task_that_cant_be_built_closes_those_before_it(build):
    is_open = []
    with pytest.raises(ValueError, match="no such game"):
        build([lambda: Door(is_open), unbuilt])
    assert not is_open


@BUILDS
def test_an_error_while_closing_hides_neither_the_first_nor_what_else_is_to_be_closed(build):
    is_open = []
    jammed = []
    tasks = [lambda: Door(jammed, jams=True), lambda: Door(is_open), unbuilt]
    with pytest.raises(ValueError, match="no such game"):
        build(tasks)
    assert not is_open


@pytest.mark.parametrize("build", [lone, make_multitask_vector])
def test_closing_goes_on_after_a_task_that_raises_and_the_error_is_heard(build):
    is_open = []
    jammed = []
    env = build([lambda: Door(jammed, jams=True), lambda: Door(is_open)])
    with pytest.raises(OSError, match="it jams"):
        env.close()
    assert not is_open
    jammed[0].jams = False  # for the garbage collector, which closes once more


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # others may have loaded jax
def test_processes_end_where_the_world_cant_be_built(monkeypatch):
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    before = set(multiprocessing.active_children())
    tasks = [CountingEnv, lambda: CountingEnv(size=5)]
    with pytest.raises(ValueError, match="`obs_space`='strict' needs equal"):
        make_multitask_vector(tasks, vectorization="async", obs_space="strict")
    assert set(multiprocessing.active_children()) <= before


def test_a_monitor_that_cant_write_closes_the_world(tmp_path):
    (tmp_path / "file").write_text("")
    is_open = []
    with pytest.raises(FileExistsError):
        sb3_moe.make_multitask_vec_env([lambda: Door(is_open)], monitor_dir=tmp_path / "file")
    assert not is_open
