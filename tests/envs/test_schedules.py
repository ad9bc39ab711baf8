"""Schedules by themselves: what they play, when they switch, what they refuse."""

import json

import numpy as np
import pytest
from counting import counting_tasks
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_moe import make_multitask_vec_env
from sb3_moe_envs import MultiTaskVectorEnv
from sb3_moe_envs.physics import cartpole
from sb3_moe_envs.schedules import (
    Adaptive,
    Chosen,
    Cycle,
    Episode,
    Interleave,
    LearningProgress,
    Sequence,
    slot_counts,
)

NAMES = ["a", "b", "c"]


def started(schedule, names=NAMES, seed=0, env_index=0):
    schedule.start(names, seed=seed, env_index=env_index)
    return schedule


def tasks_by_step(schedule, num_steps, stride=1):
    tasks = []
    for _ in range(num_steps):
        tasks.append(schedule.task)
        schedule.count(stride)
    return tasks


def tasks_by_episode(schedule, num_episodes, length=lambda task: 1):
    tasks = []
    for _ in range(num_episodes):
        task = schedule.task
        tasks.append(task)
        schedule.end(Episode(task, length(task), 0.0))
    return tasks


@pytest.mark.parametrize(
    ("schedule", "stride", "expected"),
    [
        (Cycle(2, num_cycles=2), 1, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2, 2, 2, 2]),
        # 3 environments, turns of 4 steps: boundaries at 4, 8, ... are reached by counts 6, 9, 12.
        (Cycle(4, num_cycles=None), 3, [0, 0, 1, 2, 0, 0]),
        (Cycle(1, order=["c", "a", 2]), 1, [2, 0, 2, 2]),
        (Sequence([("b", 2), (0, 1), ("b", 1)]), 1, [1, 1, 0, 1, 1, 1]),
    ],
    ids=repr,
)
def test_turns_of_steps_are_played_one_after_the_other_and_the_last_is_held(
    schedule, stride, expected
):
    assert tasks_by_step(started(schedule), len(expected), stride) == expected


def test_turns_of_episodes_count_finished_ones_only():
    schedule = started(Adaptive("episodes>=2"))
    schedule.end(Episode(0, 3, 0.0, finished=False))
    assert tasks_by_episode(schedule, 6) == [0, 0, 1, 1, 2, 2]


def test_steps_per_task_round_up_to_whole_rollouts():
    schedule = Cycle(1000, round_to=256, num_cycles=2)
    assert schedule.steps_per_task == 1024
    assert schedule.total_steps(3) == 6 * 1024
    assert Sequence([("b", 2), (0, 1)]).total_steps() == 3


def test_round_robin_keeps_the_shares_and_environment_i_starts_with_task_i():
    assert tasks_by_episode(started(Interleave("episodes"), env_index=4), 4) == [1, 2, 0, 1]
    tasks = tasks_by_episode(started(Interleave("episodes", weights=[2, 1, 1])), 400)
    assert [tasks.count(task) for task in range(3)] == [200, 100, 100]


def test_interleaving_by_steps_gives_short_episodes_more_turns():
    tasks = tasks_by_episode(started(Interleave()), 300, length=lambda task: [1, 2, 4][task])
    steps = [tasks.count(task) * [1, 2, 4][task] for task in range(3)]
    assert max(steps) - min(steps) <= 4


@pytest.mark.parametrize("unit", ["steps", "episodes"])
def test_random_interleaving_keeps_the_shares_on_average(unit):
    lengths = [1, 3, 9]
    schedule = started(Interleave(unit, order="random", weights=[2, 1, 1]), seed=1)
    tasks = tasks_by_episode(schedule, 6000, length=lambda task: lengths[task])
    played = np.array([tasks.count(t) * (lengths[t] if unit == "steps" else 1) for t in range(3)])
    assert played / played.sum() == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def test_an_adaptive_schedule_moves_on_when_its_rule_holds_and_starts_to_count_again():
    schedule = started(Adaptive("steps>=10 and return>=5", window=2))
    schedule.count(20)
    schedule.end(Episode(0, 10, 9.0))
    assert schedule.task == 0  # one episode is no window
    schedule.end(Episode(0, 10, 0.0))
    assert schedule.task == 0  # the mean is 4.5
    schedule.end(Episode(0, 10, 10.0))
    assert schedule.task == 1  # the mean of the last two is 5
    schedule.end(Episode(1, 10, 50.0))
    schedule.end(Episode(1, 10, 50.0))
    assert schedule.task == 1  # no steps yet in this turn
    schedule.count(10)
    assert schedule.task == 2


def test_success_is_a_rate_of_finished_episodes_and_a_silent_one_is_none_beside_others():
    schedule = started(Adaptive("success>=0.5", window=4))
    schedule.end(Episode(0, 1, 0.0, success=1.0, finished=False))
    for success in (np.nan, 1.0, np.nan, np.nan):
        schedule.end(Episode(0, 1, 0.0, success=success))
    assert schedule.task == 0
    schedule.end(Episode(0, 1, 0.0, success=1.0))
    assert schedule.task == 1


def test_learning_progress_goes_on_after_a_turn_in_which_no_episode_ended():
    schedule = started(LearningProgress("steps>=5", explore=0.0))
    assert tasks_by_step(schedule, 7, stride=5)[:6] == [0, 1, 2, 0, 1, 2]


def test_learning_progress_counts_silent_episodes_as_no_success():
    schedule = started(LearningProgress("episodes>=2", by="success", explore=0.0, window=2))
    for _ in range(2):
        for task, says in enumerate([[0.5, 0.5], [0.5, 0.5], [np.nan, 1.0]]):
            for success in says if schedule.turn < 5 else (1.0, 1.0):
                schedule.end(Episode(task, 1, 0.0, success=success))
    assert schedule.task == 2


def played_turns(schedule, means):
    """Play one-episode turns in which a task's results are these, one after the other."""
    left, turns = {task: list(values) for task, values in means.items()}, []
    while left[schedule.task]:
        task = schedule.task
        turns.append(task)
        value = left[task].pop(0)
        schedule.end(Episode(task, 1, value, success=value))
    return turns


def test_learning_progress_goes_to_the_task_that_changed_most_whichever_way():
    schedule = started(LearningProgress("episodes>=1", by="success", explore=0.0))
    # Each has two turns; then b, which gained .5, until c's loss of .3 is more than its next .1.
    results = {0: [0.2, 0.2], 1: [0.1, 0.6, 0.7], 2: [0.9, 0.6, 0.6]}
    assert played_turns(schedule, results) == [0, 1, 2, 0, 1, 2, 1, 2]
    assert schedule.task == 1  # c's last turn changed nothing, b's changed .1
    schedule = started(LearningProgress("episodes>=1", explore=0.0))
    played_turns(schedule, {0: [1000.0, 1100.0], 1: [-1.0, -0.5], 2: [0.0, 0.0]})
    assert schedule.task == 1  # half of its largest return, where a gained a tenth


def test_learning_progress_explores_by_its_seed_and_goes_on_from_a_state():
    def play(schedule, turns=60):
        tasks = []
        for turn in range(turns):
            tasks.append(schedule.task)
            schedule.end(Episode(schedule.task, 1, float(turn % 7), success=float("nan")))
        return tasks

    make = lambda: LearningProgress("episodes>=1", by="success", explore=0.5)  # noqa: E731
    first = play(started(make(), seed=3))
    assert first == play(started(make(), seed=3)) != play(started(make(), seed=4))
    # Nobody says anything of success, so all are as good as the first.
    assert min(first[6:].count(task) for task in range(3)) > 10
    half, rest = started(make(), seed=3), started(make(), seed=9)
    play(half, 31)
    rest.load_state_dict(json.loads(json.dumps(half.state_dict())))
    assert play(rest, 29) == first[31:]


def test_a_function_sees_what_was_played_and_chooses_the_next_task():
    seen = []

    def choose(progress):
        seen.append((progress.steps, progress.episodes, progress.last))
        return "b" if progress.last is None else 2

    schedule = started(Chosen(choose))
    episode = Episode(1, 4, 7.0)
    schedule.end(episode)
    assert schedule.task == 2
    assert seen == [((0, 0, 0), (0, 0, 0), None), ((0, 4, 0), (0, 1, 0), episode)]


EVERY_KIND = [
    Interleave(),
    Interleave("episodes", order="random"),
    Cycle(5, num_cycles=None),
    Sequence([(2, 7), (0, 5)]),
    Adaptive("episodes>=3 or steps>=20", window=2),
    LearningProgress("episodes>=2", window=2),
    Chosen(lambda progress: int(progress.rng.integers(3))),
]


@pytest.mark.parametrize("schedule", EVERY_KIND, ids=repr)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), events=st.lists(st.integers(1, 4), min_size=1, max_size=30))
def test_a_state_is_json_and_goes_on_as_the_original_would(schedule, seed, events):
    started(schedule, seed=seed)
    follow(schedule, events)
    state = json.loads(json.dumps(schedule.state_dict()))
    expected = follow(schedule, events)
    started(schedule, seed=seed + 1)
    schedule.load_state_dict(state)
    assert follow(schedule, events) == expected


def follow(schedule, events):
    tasks = []
    for steps in events:
        schedule.count(steps)
        schedule.end(Episode(schedule.task, steps, float(steps)))
        tasks.append(schedule.task)
    return tasks


@settings(max_examples=200, deadline=None, derandomize=True)
@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=6), extra=st.integers(0, 30))
def test_slots_are_shared_out_by_the_largest_remainder_with_one_each(weights, extra):
    shares = np.array(weights) / sum(weights)
    num_slots = len(weights) + extra
    counts = slot_counts(shares, num_slots)
    assert sum(counts) == num_slots
    assert min(counts) >= 1
    if min(shares) * num_slots >= 1:
        # Then one slot each is no constraint: nobody is more than a slot away from their share.
        assert np.abs(np.array(counts) - shares * num_slots).max() <= 1


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("steps>=1e5", True),
        ("steps > 100_000", False),
        ("steps<1e5 or return>=-0.5", True),
        ("steps<1e5 or return>=200 and steps>=1", False),
        ("episodes==3 and return>=-2 or steps<5", True),
        ("success<=1", False),
    ],
)
def test_a_rule_reads_comparisons_and_an_unknown_number_fails(rule, holds):
    schedule = started(Adaptive(rule, window=3))
    schedule._episodes, schedule._returns, schedule._successes = 3, [-0.5] * 3, [np.nan] * 3
    schedule.count(100_000)
    assert schedule.task == int(holds)


@pytest.mark.parametrize("rule", ["__import__('os')>=1", "lives>=1", "steps=3", "steps>=1e999", ""])
def test_a_rule_that_cannot_be_read_is_refused(rule):
    with pytest.raises(ValueError, match=r"`rule` must be comparisons .* with a number, joined by"):
        Adaptive(rule)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Interleave("frames"), "`unit` must be 'steps' or 'episodes', got 'frames'"),
        (lambda: Interleave(order="fixed"), "`order` must be 'round_robin' or 'random', got 'fix"),
        (lambda: Interleave(weights=[1, 0]), r"`weights` must be positive, got 0"),
        (lambda: Interleave(weights=[1, np.nan]), "`weights` must be a finite number, got nan"),
        (lambda: cartpole(gravity=True), "`gravity` must be a finite number, got True"),
        (lambda: Cycle(2.5), "^`steps_per_task` must be a whole number, got 2.5"),
        (lambda: Cycle(-1), "^`steps_per_task` must be at least 1, got -1"),
        (lambda: Sequence([(0, 5), (0, -1)]), r"^`blocks\[1\]` must be at least 1, got -1"),
        (lambda: MultiTaskVectorEnv(counting_tasks(2), "3"), "^`num_envs` must be a whole number"),
        (lambda: started(Interleave(weights=[1, 2])), "`weights` must have one entry per task, 3"),
        (lambda: started(Cycle(3, order=["d"])), r"`order` must name a task of \['a', 'b', 'c'\]"),
        (
            lambda: Cycle(3, num_cycles=None).total_steps(3),
            "`total_steps` needs a number of",
        ),
        (
            lambda: started(Chosen(lambda progress: 3)),
            r"`choose` must be in \[0, num_tasks=3\), got",
        ),
        (
            lambda: started(Chosen(lambda progress: None)),
            "`choose` must be a whole number, got None",
        ),
        (lambda: LearningProgress("steps>=1", by="reward"), r"`by` must be one of .*got 'reward'"),
        (
            lambda: LearningProgress("steps>=1", explore=1.5),
            r"`explore` must be in \[0, 1\], got 1.5",
        ),
        (
            lambda: slot_counts(np.full(3, 1 / 3), 2),
            "as many environments as there are tasks, 3, got 2",
        ),
    ],
)
def test_a_bad_schedule_is_refused_with_the_rule_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_whole_floats_and_numbers_of_numpys_are_taken():
    assert repr(Cycle(1e5, num_cycles=2.0)) == repr(Cycle(100_000, num_cycles=2))
    assert make_multitask_vec_env(counting_tasks(2), np.int64(4)).num_envs == 4
    env = MultiTaskVectorEnv(counting_tasks(2), 2.0, schedule=Cycle(9))
    env.set_task(1.0)
    assert env.reset()[1]["task_id"].tolist() == [1, 1]
