"""Every metric of continual learning on scores that are worked out by hand."""

import numpy as np
import pytest

from sb3_moe import measures
from sb3_moe.measures import Block
from sb3_moe.measures.scores import load_measured
from sb3_moe_envs import SUITES

# Two tasks, trained for 100 steps each, evaluated every 50. Task 0 rises to 0.8 and falls to 0.2;
# task 1 gains 0.1 from task 0's block and then rises to 0.6.
STEPS = [0, 50, 100, 150, 200]
SCORE = np.array([[0.0, 0.0], [0.4, 0.1], [0.8, 0.1], [0.4, 0.4], [0.2, 0.6]])
BLOCKS = [Block(0, 0, 100), Block(1, 100, 200)]


def test_average_performance_is_the_mean_over_tasks_at_the_end():
    assert measures.average_performance(SCORE, STEPS) == pytest.approx(0.4)
    assert measures.average_performance(SCORE, STEPS, window=2) == pytest.approx(0.4)
    assert measures.average_performance(SCORE, STEPS, window=3) == pytest.approx(2.5 / 6)


def test_forgetting_is_the_fall_since_the_end_of_the_tasks_block():
    np.testing.assert_allclose(measures.forgetting_per_task(SCORE, STEPS, BLOCKS), [0.6, 0.0])


def test_isolated_forgetting_is_what_each_block_took_relative_to_the_best():
    # Block 0: task 0 gains 0.8 of 0.8, task 1 gains 0.1 of 0.6. Block 1: 0.6 lost, 0.5 gained.
    expected = [[-1.0, -1 / 6], [0.75, -5 / 6]]
    np.testing.assert_allclose(measures.forgetting_isolated(SCORE, STEPS, BLOCKS), expected)


def test_a_run_equal_to_its_reference_has_no_forward_transfer():
    reference = {0: (SCORE[:3, 0], STEPS[:3]), 1: (SCORE[2:, 1], STEPS[:3])}
    per_task = measures.forward_transfer_per_task(SCORE, STEPS, BLOCKS, reference)
    np.testing.assert_allclose(per_task, [0.0, 0.0], atol=1e-12)


def test_forward_transfer_is_the_gain_in_area_over_the_room_above_the_reference():
    # Areas: task 0 (0 + 2 * 0.4 + 0.8) / 4 = 0.4; task 1 (0.1 + 2 * 0.4 + 0.6) / 4 = 0.375.
    reference = {0: ([0.2, 0.2], [0, 100]), 1: ([0.5, 0.5], [0, 100])}
    per_task = measures.forward_transfer_per_task(SCORE, STEPS, BLOCKS, reference)
    np.testing.assert_allclose(per_task, [0.2 / 0.8, -0.125 / 0.5])
    reference[0] = ([1.0, 1.0], [0, 100])  # leaves no room
    assert np.isnan(measures.forward_transfer_per_task(SCORE, STEPS, BLOCKS, reference)[0])


def test_backward_transfer_compares_the_end_with_each_earlier_tasks_own_block():
    assert measures.backward_transfer_gem(SCORE, STEPS, BLOCKS) == pytest.approx(-0.6)


def test_zero_shot_transfer_is_what_a_task_scores_before_its_block():
    assert measures.zero_shot_transfer_gem(SCORE, STEPS, BLOCKS) == pytest.approx(0.1)
    assert measures.zero_shot_transfer_gem(SCORE, STEPS, BLOCKS, [9, 0.3]) == pytest.approx(-0.2)


def test_metrics_over_other_tasks_are_nan_for_a_single_one():
    score, blocks = SCORE[:3, :1], BLOCKS[:1]
    assert np.isnan(measures.backward_transfer_gem(score, STEPS[:3], blocks))
    assert np.isnan(measures.zero_shot_transfer_gem(score, STEPS[:3], blocks))


def test_scores_between_evaluations_lie_on_the_line():
    np.testing.assert_allclose(measures.score_at(SCORE, STEPS, 75), [0.6, 0.1])
    np.testing.assert_allclose(measures.area(SCORE, STEPS, 50, 75), [0.5, 0.1])


def test_blocks_are_found_from_what_was_trained():
    assert measures.blocks_of(STEPS, [0, 0, 0, 1, 1]) == BLOCKS
    assert measures.blocks_of(STEPS, [-1] * 5) == []
    again = [Block(0, 0, 1), Block(1, 1, 2), Block(0, 2, 3)]
    assert measures.blocks_of([0, 1, 2, 3], [0, 0, 1, 0]) == again


def test_scores_are_read_from_a_runs_folder(tmp_path):
    names = np.array(["x", "y"])
    np.savez(
        tmp_path / "scores.npz", score=SCORE, steps=STEPS, trained=[0, 0, 0, 1, 1], task_names=names
    )
    scores = measures.load_scores(tmp_path)
    assert scores.task_names == ["x", "y"]
    assert scores.blocks == BLOCKS


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measures.average_performance(SCORE[:, 0], STEPS), r"must be \(evaluations, tasks"),
        (lambda: measures.average_performance(SCORE, STEPS[:-1]), r"got shapes \(5, 2\) and \(4,"),
        (lambda: measures.average_performance(SCORE * np.nan, STEPS), "`score` must be finite"),
        (lambda: measures.average_performance(SCORE, STEPS[::-1]), "`steps` must rise"),
        (lambda: measures.forward_transfer_per_task(SCORE, STEPS, BLOCKS, {}), "of task 0 alone"),
        (lambda: measures.forgetting_per_task(SCORE, STEPS, []), "use a Cycle or Sequence"),
        (lambda: measures.score_at(SCORE, STEPS, 1e9), r"evaluations must cover .*, but go 0 to"),
    ],
)
def test_what_can_not_be_measured_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_normalized_scores_run_from_random_to_reference():
    scores = measures.normalize([[1.0, 10.0], [3.0, 30.0]], [1.0, 10.0], [3.0, 20.0])
    np.testing.assert_allclose(scores, [[0.0, 0.0], [1.0, 2.0]])


@pytest.mark.parametrize("agent", ["random", "reference"])
def test_measured_returns_are_of_every_task_of_their_suite(agent):
    measured = load_measured(agent)
    assert {"MinAtar/MTRL3", "MinAtar/CRL3", "MinAtar/All5"} <= set(measured)
    for suite, tasks in measured.items():
        assert list(tasks) == [task.name for task in SUITES[suite].tasks]
