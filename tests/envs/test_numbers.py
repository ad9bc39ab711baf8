"""Counts are whole numbers, in whatever type, and are checked where they are given."""

from __future__ import annotations

import json

import numpy as np
import pytest
from counting import counting_tasks

import sb3_moe_envs.physics as physics
from sb3_moe import make_multitask_vec_env
from sb3_moe_envs import (
    Adaptive,
    Cycle,
    Interleave,
    MultiTaskEnv,
    MultiTaskVectorEnv,
    Sequence,
    make_multitask_vector,
)

#: what takes a count, by the argument
COUNTS = {
    "steps_per_task": lambda n: Cycle(n),
    "episodes_per_task": lambda n: Cycle(episodes_per_task=n),
    "num_cycles": lambda n: Cycle(3, num_cycles=n),
    "round_to": lambda n: Cycle(3, round_to=n),
    "shuffle_seed": lambda n: Cycle(3, shuffle_seed=n),
    "order": lambda n: Cycle(3, order=[n]),
    "window": lambda n: Adaptive("steps>=1", window=n),
    "blocks": lambda n: Sequence([(n, 5)]),
    r"blocks\[1\]": lambda n: Sequence([(0, 5), (0, n)]),
    "num_envs": lambda n: MultiTaskEnv(counting_tasks(2), num_envs=n),
    "env_index": lambda n: MultiTaskEnv(counting_tasks(2), env_index=n),
    "num_envs of a vector": lambda n: MultiTaskVectorEnv(counting_tasks(2), n),
    "num_envs of slots": lambda n: make_multitask_vector(
        counting_tasks(2), n, schedule=Interleave("episodes")
    ),
    "task": lambda n: MultiTaskEnv(counting_tasks(2)).set_task(n),
}


@pytest.mark.parametrize("wrong", [2.5, float("nan"), float("inf"), True, np.bool_(True), "3"])
@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_whole_number_is_refused_where_it_is_given(name, wrong):
    if isinstance(wrong, str) and name in ("order", "blocks", "task"):
        pytest.skip("a task's name is text")
    with pytest.raises(ValueError, match=rf"^`{name.split(' ')[0]}` must be a whole number, got "):
        COUNTS[name](wrong)


@pytest.mark.parametrize("name", sorted(set(COUNTS) - {"order", "blocks", "task"}))
def test_negative_counts_are_refused(name):
    with pytest.raises(ValueError, match=rf"^`{name.split(' ')[0]}` must be at least [01], got -1"):
        COUNTS[name](-1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sequence(1e5), r"`blocks` must be a list of \(task, steps\) pairs, got 100000.0"),
        (lambda: Sequence("ab"), r"`blocks` must be a list of .*, got 'ab'"),
        (lambda: Sequence({"a": 5}), r"`blocks` must be a list of .*, got {'a': 5}"),
        (lambda: Sequence([("a", 5), 3]), r"`blocks\[1\]` must be a \(task, steps\) pair, got 3"),
        (lambda: Sequence([(0, 5, 1)]), r"`blocks\[0\]` must be .* pair, got \(0, 5, 1\)"),
        (lambda: Sequence(["t0"]), r"`blocks\[0\]` must be .* pair, got 't0'"),
        (lambda: Cycle(3, order=1), "`order` must be a list of tasks' indices or names, got 1"),
        (lambda: Cycle(3, order="t0"), "`order` must be a list of .*, got 't0'"),
        (lambda: Interleave(weights=2.0), "`weights` must be a list of positive numbers, got 2.0"),
    ],
)
def test_what_is_no_list_is_refused_where_it_is_given(build, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        build()


def test_blocks_come_from_anything_that_lists_pairs():
    assert repr(Sequence({"t0": 5, "t1": 6}.items())) == repr(Sequence([("t0", 5), ("t1", 6)]))
    assert repr(Sequence((task, 5) for task in (0, 1))) == repr(Sequence([(0, 5), (1, 5)]))


@pytest.mark.parametrize(
    ("floats", "ints"),
    [
        (Cycle(1e5, num_cycles=2.0, order=[1.0, 0]), Cycle(100_000, num_cycles=2, order=[1, 0])),
        (Cycle(np.float64(5), round_to=4.0), Cycle(8)),
        (Cycle(episodes_per_task=3.0), Cycle(episodes_per_task=3)),
        (Adaptive("steps>=4", window=5.0), Adaptive("steps>=4", window=5)),
        (Sequence([(1.0, 2e1), ("t0", 5.0)]), Sequence([(1, 20), ("t0", 5)])),
    ],
)
def test_whole_floats_are_the_numbers_that_they_are(floats, ints):
    assert repr(floats) == repr(ints)
    for schedule in (floats, ints):
        schedule.start(["t0", "t1"], seed=0)
        schedule.count(7)
    assert json.dumps(floats.state_dict()) == json.dumps(ints.state_dict())


def test_environments_take_whole_floats():
    assert MultiTaskEnv(counting_tasks(2), num_envs=4.0).num_envs == 4
    assert MultiTaskVectorEnv(counting_tasks(2), 4.0).observation_space["obs"].shape == (4, 3)
    assert make_multitask_vec_env(counting_tasks(2), np.int64(4)).num_envs == 4
    own = make_multitask_vector(counting_tasks(2), 3.0, schedule=Interleave("episodes"))
    assert own.num_envs == 3
    env = MultiTaskVectorEnv(counting_tasks(2), 2, schedule=Cycle(9))
    assert env.reset(options={"task_id": 1.0})[1]["task_id"].tolist() == [1, 1]


@pytest.mark.parametrize("wrong", [True, float("nan"), float("inf"), "1"])
def test_weights_and_physics_are_finite_numbers(wrong):
    for build, name in (
        (lambda: Interleave(weights=[1, wrong]), "weights"),
        (lambda: physics.cartpole(gravity=wrong), "gravity"),
        (lambda: physics.pendulum(g=wrong), "g"),
        (lambda: physics.mujoco("Hopper-v5", gravity=wrong), "gravity"),
    ):
        with pytest.raises(ValueError, match=f"^`{name}` must be a finite number, got "):
            build()


def test_a_rule_compares_with_finite_numbers():
    with pytest.raises(ValueError, match="with a finite number, got 'steps>=1e999'"):
        Adaptive("steps>=1e999")
