"""Counts are whole numbers, in whatever type, and are checked where they are given."""

from __future__ import annotations

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
    "num_cycles": lambda n: Cycle(3, num_cycles=n),
    "round_to": lambda n: Cycle(3, round_to=n),
    "shuffle_seed": lambda n: Cycle(3, shuffle_seed=n),
    "window": lambda n: Adaptive("steps>=1", window=n),
    r"blocks\[1\]": lambda n: Sequence([(0, 5), (0, n)]),
    "num_envs": lambda n: MultiTaskEnv(counting_tasks(2), num_envs=n),
    "env_index": lambda n: MultiTaskEnv(counting_tasks(2), env_index=n),
    "num_envs of a vector": lambda n: MultiTaskVectorEnv(counting_tasks(2), n),
    "num_envs of slots": lambda n: make_multitask_vector(
        counting_tasks(2), n, schedule=Interleave("episodes")
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_whole_number_of_its_range_is_refused_where_it_is_given(name):
    argument = name.split(" ")[0]
    for wrong in (2.5, float("nan"), True, "3"):
        with pytest.raises(ValueError, match=rf"^`{argument}` must be a whole number, got "):
            COUNTS[name](wrong)
    with pytest.raises(ValueError, match=rf"^`{argument}` must be at least [01], got -1"):
        COUNTS[name](-1)


@pytest.mark.parametrize("wrong", [True, float("nan"), "1"])
def test_weights_and_physics_are_finite_numbers(wrong):
    for build, name in (
        (lambda: Interleave(weights=[1, wrong]), "weights"),
        (lambda: physics.cartpole(gravity=wrong), "gravity"),
        (lambda: physics.pendulum(g=wrong), "g"),
        (lambda: physics.mujoco("Hopper-v5", gravity=wrong), "gravity"),
    ):
        with pytest.raises(ValueError, match=f"^`{name}` must be a finite number, got "):
            build()


def test_whole_floats_and_numbers_of_numpys_are_taken():
    assert repr(Cycle(1e5, num_cycles=2.0)) == repr(Cycle(100_000, num_cycles=2))
    assert repr(Cycle(np.float64(5), round_to=4.0)) == repr(Cycle(8))
    assert MultiTaskEnv(counting_tasks(2), num_envs=4.0).num_envs == 4
    assert make_multitask_vec_env(counting_tasks(2), np.int64(4)).num_envs == 4
    own = make_multitask_vector(counting_tasks(2), 3.0, schedule=Interleave("episodes"))
    assert own.num_envs == 3
    env = MultiTaskVectorEnv(counting_tasks(2), 2.0, schedule=Cycle(9))
    assert env.reset(options={"task_id": 1.0})[1]["task_id"].tolist() == [1, 1]
