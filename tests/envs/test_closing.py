"""A world that can't be built leaves nothing open of what it built."""

from __future__ import annotations

import multiprocessing
from functools import partial

import pytest
from counting import CountingEnv

import sb3_moe
from sb3_moe_envs import Interleave, MultiTaskEnv, Task, make_multitask_vector
from sb3_moe_envs.closing import close_all
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


class Limited(Door):
    """Only so many are there at a time, as where a game has licences."""

    def __init__(self, is_open):
        if len(is_open) == 3:
            raise OSError("no more than three")
        super().__init__(is_open)


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
def test_spaces_that_dont_fit_close_every_task(build):
    is_open = []
    tasks = [lambda: Door(is_open), lambda: Door(is_open, size=5)]
    with pytest.raises(ValueError, match="`obs_space`='strict' needs equal"):
        build(tasks, obs_space="strict")
    assert not is_open


@BUILDS
@pytest.mark.parametrize("name", ["task_id", "obs_space", "action_space", "invalid_action"])
def test_an_option_that_is_unknown_builds_and_closes_nothing(build, name):
    is_open = []
    mine = Door(is_open)
    with pytest.raises(ValueError, match=f"`{name}` must be one of .*, got 'same'"):
        build([lambda: mine, lambda: Door(is_open)], **{name: "same"})
    assert is_open == [mine]


@BUILDS
def test_ctrl_c_while_a_task_is_built_closes_those_before_it(build):
    def interrupted():
        raise KeyboardInterrupt

    is_open = []
    with pytest.raises(KeyboardInterrupt):
        build([lambda: Door(is_open), interrupted])
    assert not is_open


@BUILDS
def test_an_error_while_closing_hides_neither_the_first_nor_what_else_is_to_be_closed(build):
    is_open = []
    jammed = []
    tasks = [lambda: Door(jammed, jams=True), lambda: Door(is_open), unbuilt]
    with pytest.raises(ValueError, match="no such game"):
        build(tasks)
    assert not is_open


@BUILDS
def test_closing_goes_on_after_a_task_that_raises_and_the_error_is_heard(build):
    is_open = []
    jammed = []
    env = build([lambda: Door(jammed, jams=True), lambda: Door(is_open)])
    with pytest.raises(OSError, match="it jams"):
        env.close()
    assert not is_open
    jammed[0].jams = False  # for the garbage collector, which closes once more


def test_of_several_errors_the_first_is_raised_with_notes_of_the_others():
    closed = []

    def closing(error):
        closed.append(error)
        raise error

    errors = [OSError("a"), ValueError("b")]
    with pytest.raises(OSError, match="a") as caught:
        close_all([partial(closing, error) for error in errors])
    assert closed == errors
    assert caught.value.__notes__ == ["closing also raised ValueError('b')"]


@pytest.mark.parametrize("schedule", [None, Interleave("episodes")])
def test_a_copy_that_cant_be_built_closes_those_before_it(schedule):
    is_open = []
    with pytest.raises(ValueError, match="no more than three"):
        make_multitask_vector([lambda: Limited(is_open)], 4, schedule=schedule)
    assert not is_open


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


def test_a_lone_environments_task_at_fault_is_named_whatever_closing_raises():
    class Faulty(Door):
        def step(self, action):
            raise OSError("it broke")

    env = MultiTaskEnv([Task("bad", env_fn=lambda: Faulty([], jams=True))], num_envs=1)
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"task 0 \('bad'\): OSError: it broke"):
        env.step(0)
