"""Many slots: shares, switches together, final observations and infos, tasks chosen by hand."""

from functools import partial

import numpy as np
import pytest
from counting import CountingEnv, counting_tasks
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from sb3_moe_envs import (
    Adaptive,
    Cycle,
    Interleave,
    MultiTaskVectorEnv,
    Task,
    make_multitask_vector,
)
from sb3_moe_envs.vector.groups import InTurnVectorEnv
from sb3_moe_envs.vector.infos import stack, unstack

SAME_STEP = {"autoreset_mode": AutoresetMode.SAME_STEP}


def step(env, action=0):
    return env.step(np.full(env.num_envs, action))


def test_interleaving_gives_each_task_a_fixed_share_of_the_slots():
    env = MultiTaskVectorEnv(counting_tasks(3), 8)
    _, infos = env.reset(seed=0)
    assert infos["task_id"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    for _ in range(20):
        assert step(env)[4]["task_id"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    schedule = Interleave(weights=[2, 1, 1])
    weighted = MultiTaskVectorEnv(counting_tasks(3), 8, schedule=schedule)
    assert np.bincount(weighted.get_task()).tolist() == [4, 2, 2]
    with pytest.warns(UserWarning, match=r"`num_envs`=3 the tasks get \[1, 1, 1\] slots, not the"):
        MultiTaskVectorEnv(counting_tasks(3), 3, schedule=schedule)


def test_all_slots_switch_together_by_truncation_with_the_old_tasks_last_observations():
    env = MultiTaskVectorEnv(counting_tasks(2), 3, schedule=Cycle(6))
    env.reset(seed=1)
    step(env)
    obs, _, terminated, truncated, infos = step(env)
    assert (terminated | truncated).all()
    assert not (terminated & truncated).any()
    assert truncated.any()
    assert obs["task_id"].tolist() == infos["task_id"].tolist() == [1, 1, 1]
    assert obs["obs"][:, 0].tolist() == [2, 2, 2]  # the new task's tag
    assert infos["_final_obs"].all()
    for slot in range(3):
        last = infos["final_obs"][slot]
        assert last in env.single_observation_space
        assert last["task_id"] == infos["final_info"]["task_id"][slot] == 0
        assert last["obs"][0] == 1  # the old task's tag
        assert last["obs"][2] == 0  # padding
    assert infos["final_info"]["is_success"].tolist() == [False] * 3


def test_infos_are_taken_apart_and_stacked_with_masks_for_those_who_have_a_key():
    infos = {"a": np.array([1, 2]), "_a": np.array([True, False]), "n": {"x": np.array([0.5, 1.5])}}
    rows = unstack(infos, 2)
    assert rows == [{"a": 1, "n": {"x": 0.5}}, {"n": {"x": 1.5}}]
    stacked = stack(dict(enumerate([*rows, {"a": 3, "b": "s"}])), 3)
    assert stacked["a"].tolist() == [1, 0, 3]
    assert stacked["_a"].tolist() == [True, False, True]
    assert stacked["n"]["x"].tolist() == [0.5, 1.5, 0]
    assert stacked["n"]["_x"].tolist() == stacked["_n"].tolist() == [True, True, False]
    assert stacked["_b"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("first", "second", "column"),
    [
        (1, 0.75, [1, 0.75]),
        (1, "fell", [1, "fell"]),
        (2.0, {"x": 1.0}, [2.0, {"x": 1.0}]),
        (np.zeros(2, np.int8), np.full(2, 300), [[0, 0], [300, 300]]),
    ],
    ids=str,
)
def test_infos_of_other_kinds_are_kept_as_they_are(first, second, column):
    found = stack({0: {"v": first}, 1: {"v": second}}, 2)
    assert found["v"].tolist() == column
    assert found["_v"].tolist() == [True, True]


def test_arrays_of_other_shapes_stand_beside_each_other():
    found = stack({0: {"v": np.zeros(1)}, 1: {"v": np.ones(2)}}, 2)
    assert [value.tolist() for value in found["v"]] == [[0], [1, 1]]


def test_an_adaptive_schedule_sees_the_episodes_of_all_slots():
    class Short(CountingEnv):
        def step(self, action):
            obs, _, _, _, info = super().step(action)
            return obs, 1.0, self.steps >= 3, False, info

    rule = "episodes>=3 and return>=3"
    env = MultiTaskVectorEnv([Short, partial(Short, 2)], 2, schedule=Adaptive(rule, window=2))
    env.reset(seed=0)
    tasks = [step(env)[4]["task_id"][0] for _ in range(9)]
    # Two episodes end at steps 3, 6, 9: the third finished episode comes with step 6.
    assert tasks == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_what_ends_in_the_step_of_a_switch_does_not_count_for_the_next_task():
    schedule = Adaptive("episodes>=2", num_cycles=None)
    env = MultiTaskVectorEnv(counting_tasks(3, length=1), 4, schedule=schedule)
    env.reset(seed=0)
    assert [step(env)[4]["task_id"][0] for _ in range(4)] == [1, 2, 0, 1]


def test_set_task_moves_the_slots_meant_and_the_schedule_stands_still():
    env = MultiTaskVectorEnv(counting_tasks(3), 4, schedule=Cycle(1000))
    env.reset(seed=0)
    env.set_task("t2", indices=[1, 3])
    assert env.get_task().tolist() == [0, 0, 0, 0]
    _, _, terminated, truncated, infos = step(env)
    assert (terminated | truncated).all()
    assert infos["task_id"].tolist() == env.get_task().tolist() == [0, 2, 0, 2]
    assert [infos["final_obs"][slot]["task_id"] for slot in range(4)] == [0, 0, 0, 0]
    obs, *_ = step(env)
    assert obs["obs"][:, 0].tolist() == [1, 3, 1, 3]
    env.set_task(1)
    _, infos = env.reset()
    assert infos["task_id"].tolist() == [1, 1, 1, 1]
    before = env.schedule.state_dict()
    step(env)
    assert env.schedule.state_dict() == before
    env.set_task(None)
    assert step(env)[4]["task_id"].tolist() == [0, 0, 0, 0]
    said = "MultiTaskVectorEnv(4 slots, Cycle(steps_per_task=1000): t0 then t1 then t2)"
    assert repr(env) == said


def test_copies_of_a_task_step_as_gymnasiums_own_do_and_give_away_arrays_of_their_own():
    task = Task("pole", "CartPole-v1")
    ours = InTurnVectorEnv([partial(task.make, None)] * 3)
    theirs = SyncVectorEnv([partial(task.make, None)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    np.testing.assert_array_equal(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    before, rng, ended = None, np.random.default_rng(0), 0
    for _ in range(100):
        actions = rng.integers(0, 2, 3)
        mine, other = ours.step(actions), theirs.step(actions)
        for array, expected in zip(mine[:4], other[:4], strict=True):
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == expected.dtype
        assert mine[4].keys() == other[4].keys()
        for row in np.flatnonzero(mine[2] | mine[3]):
            ended += 1
            np.testing.assert_array_equal(mine[4]["final_obs"][row], other[4]["final_obs"][row])
        assert before is None or not any(map(np.shares_memory, before, mine[:4]))
        before = mine[:4]
    assert ended > 5


def test_a_schedule_per_slot_answers_for_its_slots():
    env = make_multitask_vector(counting_tasks(3), 4, schedule=Interleave("episodes"))
    env.reset(seed=0)
    assert env.get_task().tolist() == [0, 1, 2, 0]
    assert env.num_tasks == 3
    assert env.task_names == ["t0", "t1", "t2"]
    assert env.action_masks().shape == (4, 4)
    env.set_task(2, indices=[0, 1])
    env.reset()
    assert env.get_task().tolist() == [2, 2, 2, 0]


@pytest.mark.parametrize(
    ("num_envs", "options", "message"),
    [
        (2, {}, "at least as many environments as there are tasks, 3, got 2"),
        (
            3,
            {"schedule": Interleave("episodes")},
            r"`schedule` must be an Interleave of steps, .*, got Interleave\(unit='episodes'\)",
        ),
        (3, {"vectorization": "x"}, "`vectorization` must"),
    ],
)
def test_bad_input_is_refused_with_the_rule_and_the_value(num_envs, options, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskVectorEnv(counting_tasks(3), num_envs, **options)


def test_a_bad_call_is_refused():
    env = MultiTaskVectorEnv(counting_tasks(2), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"`actions` must hold num_envs=2 actions, got \[0 0 0\]"):
        env.step([0] * 3)
    with pytest.raises(ValueError, match="`options` can't choose the task of slots: use"):
        env.reset(options={"task_id": 0})
    with pytest.raises(ValueError, match="`vectorization` must be 'sync' under Chosen"):
        make_multitask_vector(counting_tasks(1), schedule=lambda p: 0, vectorization="async")
