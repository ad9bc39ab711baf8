"""Infos that differ in kind or shape between copies or tasks are kept as they are."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from counting import CountingEnv

from sb3_moe_envs import Interleave, MultiTaskVectorEnv, Task, make_multitask_vector


class Saying(CountingEnv):
    """Says what it is told to, by its action in one task or by its task."""

    def __init__(self, *said):
        super().__init__(num_actions=2)
        self.said = said

    def reset(self, **kwargs):
        return super().reset(**kwargs)[0], {}

    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, False, False, self.said[min(int(action), len(self.said) - 1)]


def two_copies(first, second):
    task = Task("says", env_fn=partial(Saying, first, second))
    return MultiTaskVectorEnv([task], 2), np.array([0, 1])


def two_tasks(first, second, **kwargs):
    tasks = [Task(f"t{i}", env_fn=partial(Saying, said)) for i, said in enumerate((first, second))]
    return make_multitask_vector(tasks, 2, **kwargs), np.array([0, 0])


def two_slots(first, second):
    return two_tasks(first, second, schedule=Interleave("episodes"))


WORLDS = [two_copies, two_slots]
PAIRS = [
    (1, 0.75),
    (1, "fell"),
    (2.0, {"x": 1.0}),
    ({"x": 1, "y": {"z": 2}}, {"x": 0.5}),
]


def said(env, actions):
    env.reset(seed=0)
    return env.step(actions)[4]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("first", "second"), PAIRS, ids=str)
def test_each_copy_says_what_it_says_whatever_another_says(world, first, second):
    infos = said(*world({"v": first}, {"v": second}))
    assert infos["_v"].tolist() == [True, True]
    if isinstance(first, dict) and isinstance(second, dict):
        assert infos["v"]["x"].tolist() == [1, 0.5]
        assert infos["v"]["_y"].tolist() == [True, False]
    else:
        assert infos["v"].tolist() == [first, second]


@pytest.mark.parametrize("world", [two_copies, two_tasks])
def test_arrays_of_other_shapes_stand_beside_each_other(world):
    infos = said(*world({"v": np.zeros(1)}, {"v": np.ones(2)}))
    assert [value.tolist() for value in infos["v"]] == [[0], [1, 1]]


def test_arrays_of_one_kind_share_the_widest_dtype():
    infos = said(*two_copies({"v": np.zeros(2, np.int8)}, {"v": np.full(2, 300)}))
    assert infos["v"].dtype == np.int64
    assert infos["v"].tolist() == [[0, 0], [300, 300]]
