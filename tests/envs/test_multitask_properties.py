"""Random tasks, schedules, seeds and sizes, against versions that run each task alone."""

import numpy as np
import pytest
from counting import counting_tasks
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from slow_play import Row, play_blocks, play_interleaved

from sb3_moe_envs import (
    Cycle,
    Interleave,
    MultiTaskEnv,
    MultiTaskVectorEnv,
    Sequence,
    make_multitask_vector,
)

QUICK = settings(max_examples=40, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)


def random_actions(shape, seed):
    return np.random.default_rng(seed).integers(0, 4, shape)


def clipped(tasks, actions):
    """Leave actions that the common space has."""
    return np.minimum(actions, max(int(task.make().action_space.n) for task in tasks) - 1)


def as_rows(result, tasks):
    """One row per slot, with the last observation of an episode that ended."""
    obs, rewards, terminated, truncated, infos = result
    rows = []
    for slot, task in enumerate(tasks):
        done = terminated[slot] or truncated[slot]
        last = infos["final_obs"][slot] if done else {key: obs[key][slot] for key in obs}
        assert last["task_id"] == task
        flags = bool(terminated[slot]), bool(truncated[slot])
        rows.append(Row(int(task), last["obs"].tolist(), float(rewards[slot]), *flags))
    return rows


def play_vector(env, seed, actions):
    env.reset(seed=seed)
    rows = []
    for step_actions in actions:
        tasks = env.get_task()
        clipped = np.minimum(step_actions, env.single_action_space.n - 1)
        rows.append(as_rows(env.step(clipped), tasks))
    env.close()
    return rows


def play_single(env, seed, actions):
    env.reset(seed=seed)
    rows = []
    for action in actions:
        task = env.get_task()
        clipped = min(int(action), int(env.action_space.n) - 1)
        obs, reward, terminated, truncated, _ = env.step(clipped)
        rows.append(Row(task, obs["obs"].tolist(), reward, terminated, truncated))
        if terminated or truncated:
            env.reset()
    return rows


def assert_same(rows, expected):
    for row, wanted in zip(rows, expected, strict=True):
        assert row._replace(obs=[]) == wanted._replace(obs=[])
        assert row.obs == pytest.approx(wanted.obs)


@QUICK
@given(
    num_tasks=st.integers(1, 4), steps_per_task=st.integers(1, 25), num_cycles=st.integers(1, 3),
    num_slots=st.integers(1, 4), seed=SEEDS,
)  # fmt: skip
def test_a_cycled_vector_plays_what_each_task_plays_alone(
    num_tasks, steps_per_task, num_cycles, num_slots, seed
):
    assume(steps_per_task >= num_slots)  # shorter turns are refused
    tasks = counting_tasks(num_tasks)
    actions = random_actions((30, num_slots), seed)
    env = MultiTaskVectorEnv(
        tasks, num_slots, schedule=Cycle(steps_per_task, num_cycles=num_cycles)
    )
    blocks = [(task, steps_per_task) for task in range(num_tasks)] * num_cycles
    expected = play_blocks(
        tasks, blocks, num_slots, seed, clipped(tasks, actions), key=(num_slots,)
    )
    for rows, wanted in zip(play_vector(env, seed, actions), expected, strict=True):
        assert_same(rows, wanted)


@QUICK
@given(
    blocks=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), min_size=1, max_size=5),
    seed=SEEDS,
)
def test_a_sequence_in_one_environment_plays_what_each_task_plays_alone(blocks, seed):
    tasks = counting_tasks(3)
    actions = random_actions((40, 1), seed)
    expected = play_blocks(tasks, blocks, 1, seed, np.minimum(actions, 3))
    env = MultiTaskEnv(tasks, schedule=Sequence(blocks))
    assert_same(play_single(env, seed, actions[:, 0]), [row for (row,) in expected])


@QUICK
@given(
    weights=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    unit=st.sampled_from(["steps", "episodes"]),
    env_index=st.integers(0, 5),
    seed=SEEDS,
)
def test_an_interleaved_environment_plays_what_each_task_plays_alone(
    weights, unit, env_index, seed
):
    tasks = counting_tasks(len(weights))
    actions = clipped(tasks, random_actions(40, seed)).tolist()
    env = MultiTaskEnv(tasks, schedule=Interleave(unit, weights=weights), env_index=env_index)
    shares = [weight / sum(weights) for weight in weights]
    expected = play_interleaved(tasks, shares, unit, env_index, seed, actions)
    assert_same(play_single(env, seed, actions), expected)


@QUICK
@given(num_tasks=st.integers(1, 4), extra=st.integers(0, 4), seed=SEEDS)
def test_fixed_slots_play_what_each_task_plays_alone_and_add_up_to_the_total(
    num_tasks, extra, seed
):
    tasks = counting_tasks(num_tasks)
    num_slots = num_tasks + extra
    actions = random_actions((25, num_slots), seed)
    env = make_multitask_vector(tasks, num_slots)
    rows = play_vector(env, seed, actions)
    slots = env.get_task()
    for task in range(num_tasks):
        own = np.flatnonzero(slots == task)
        alone = play_blocks(
            tasks, [(task, 10_000)], len(own), seed, clipped(tasks, actions[:, own]),
            key=(len(own),),
        )  # fmt: skip
        for step, wanted in enumerate(alone):
            assert_same([rows[step][slot] for slot in own], wanted)
    assert sum(int((slots == task).sum()) for task in range(num_tasks)) == num_slots


@QUICK
@given(num_tasks=st.integers(1, 4), num_slots=st.integers(1, 5), seed=SEEDS)
def test_a_function_gives_each_slot_the_sequence_of_a_lone_environment(num_tasks, num_slots, seed):
    def draw(progress):
        return int(progress.rng.integers(len(progress.task_names)))

    tasks = counting_tasks(num_tasks)
    actions = random_actions((20, num_slots), seed)
    env = make_multitask_vector(tasks, num_slots, schedule=draw)
    together = play_vector(env, seed, actions)
    for slot in range(num_slots):
        lone = MultiTaskEnv(tasks, schedule=draw, env_index=slot)
        assert_same(
            [row[slot] for row in together], play_single(lone, seed + slot, actions[:, slot])
        )
