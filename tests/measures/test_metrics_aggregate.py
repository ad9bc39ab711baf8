"""Summaries over tests, tasks and experts against numbers worked out by hand."""

import numpy as np
import pytest

from sb3_moe import measures


def test_holms_adjustment_is_as_worked_out_by_hand():
    assert measures.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert measures.holm([0.9, 0.8]) == [1.0, 1.0]
    assert measures.holm([]) == []


def test_load_entropy_runs_from_one_expert_to_all():
    assert str(measures.load_entropy([1.0, 0.0])) == "0.0"  # and not -0.0
    assert measures.load_entropy([2.0, 2.0]) == pytest.approx(1.0)
    assert measures.load_entropy([5.0]) == 1.0


def test_specialization_runs_from_alike_to_one_expert_each():
    assert measures.specialization(np.eye(3)) == pytest.approx(1.0)
    assert measures.specialization(np.full((3, 4), 0.25)) == pytest.approx(0.0, abs=1e-12)
    assert measures.specialization([[1.0, 1.0]]) == 0.0


def test_specialization_is_the_mutual_information_in_bits_for_two_experts():
    def h(p):
        return -sum(x * np.log2(x) for x in (p, 1 - p))

    assert measures.specialization([[0.9, 0.1], [0.3, 0.7]]) == pytest.approx(
        h(0.6) - (h(0.9) + h(0.3)) / 2
    )


def test_agreement_is_the_mean_cosine_over_pairs_of_experts():
    outputs = np.array([[[1.0, 0.0]], [[2.0, 0.0]], [[0.0, 3.0]]])
    assert measures.agreement(outputs) == pytest.approx(1 / 3)
    assert measures.agreement(outputs[:2]) == pytest.approx(1.0)
    assert measures.agreement(outputs[:1]) == 1.0
    assert measures.agreement(np.stack([outputs[0], -outputs[0]])) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measures.normalize([1.0], [2.0], [2.0]), "`reference` must be above `random`"),
        (lambda: measures.random_returns("MinAtar/None"), "`suite` must be one of"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_of_what_is_not_finite_or_no_work_nothing_is_known():
    assert np.isnan(measures.load_entropy([np.inf, 1.0]))
    assert np.isnan(measures.load_entropy([0.0, 0.0]))
    assert np.isnan(measures.specialization([[0.5, 0.5], [np.nan, 0.5]]))
    assert np.isnan(measures.agreement(np.full((2, 1, 1), np.inf)))
