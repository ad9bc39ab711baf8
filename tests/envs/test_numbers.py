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
    MultiTaskVectorEnv,
    Sequence,
)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("steps_per_task", Cycle),
        ("window", lambda n: Adaptive("steps>=1", window=n)),
        (r"blocks\[1\]", lambda n: Sequence([(0, 5), (0, n)])),
        ("num_envs", lambda n: MultiTaskVectorEnv(counting_tasks(2), n)),
    ],
)
def test_what_is_no_whole_number_of_its_range_is_refused_where_it_is_given(name, build):
    for wrong in (2.5, float("nan"), True, "3"):
        with pytest.raises(ValueError, match=rf"^`{name}` must be a whole number, got "):
            build(wrong)
    with pytest.raises(ValueError, match=rf"^`{name}` must be at least [01], got -1"):
        build(-1)


@pytest.mark.parametrize("wrong", [True, float("nan"), "1"])
def test_weights_and_physics_are_finite_numbers(wrong):
    for build, name in (
        (lambda: Interleave(weights=[1, wrong]), "weights"),
        (lambda: physics.cartpole(gravity=wrong), "gravity"),
    ):
        with pytest.raises(ValueError, match=f"^`{name}` must be a finite number, got "):
            build()


def test_whole_floats_and_numbers_of_numpys_are_taken():
    assert repr(Cycle(1e5, num_cycles=2.0)) == repr(Cycle(100_000, num_cycles=2))
    assert make_multitask_vec_env(counting_tasks(2), np.int64(4)).num_envs == 4
    env = MultiTaskVectorEnv(counting_tasks(2), 2.0, schedule=Cycle(9))
    assert env.reset(options={"task_id": 1.0})[1]["task_id"].tolist() == [1, 1]
