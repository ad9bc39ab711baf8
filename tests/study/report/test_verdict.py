import math

import numpy as np
import pytest
from scipy import stats

from sb3_moe.study.report.verdict import (
    Estimate,
    Rule,
    combine,
    decide,
    t_interval,
    t_tests,
    welch,
)

RULE = Rule()


def estimate(mean, half_width, seeds=5):
    return Estimate(mean, mean - half_width, mean + half_width, 0.001, 0.002, seeds)


def test_a_large_and_significant_difference_supports():
    assert decide(estimate(0.5, 0.1), 0.01, "greater", 0.1, RULE) == "supported"


def test_a_difference_that_the_interval_keeps_below_what_matters_contradicts():
    assert decide(estimate(0.0, 0.05), 0.5, "greater", 0.1, RULE) == "contradicted"
    assert decide(estimate(-0.5, 0.1), 1.0, "greater", 0.1, RULE) == "contradicted"


def test_an_interval_that_leaves_both_open_is_undecided():
    assert decide(estimate(0.2, 0.4), 0.3, "greater", 0.1, RULE) == "undecided"


def test_a_significant_difference_too_small_to_matter_does_not_support():
    assert decide(estimate(0.05, 0.04), 0.001, "greater", 0.1, RULE) == "contradicted"
    assert decide(estimate(0.08, 0.04), 0.001, "greater", 0.1, RULE) == "undecided"


def test_not_greater_is_greater_with_the_verdicts_swapped():
    assert decide(estimate(0.5, 0.1), 0.01, "not_greater", 0.1, RULE) == "contradicted"
    assert decide(estimate(0.0, 0.05), 0.5, "not_greater", 0.1, RULE) == "supported"
    assert decide(estimate(0.2, 0.4), 0.3, "not_greater", 0.1, RULE) == "undecided"


def test_different_looks_at_both_sides():
    assert decide(estimate(-0.5, 0.1), 0.01, "different", 0.1, RULE) == "supported"
    assert decide(estimate(-0.02, 0.05), 0.7, "different", 0.1, RULE) == "contradicted"
    assert decide(estimate(-0.02, 0.2), 0.7, "different", 0.1, RULE) == "undecided"


@pytest.mark.parametrize("expects", ["greater", "not_greater", "different"])
@pytest.mark.parametrize("mean", [-9.0, 0.0, 9.0])
def test_fewer_than_five_seeds_are_always_undecided(expects, mean):
    assert decide(estimate(mean, 0.01, seeds=4), 0.0001, expects, 0.1, RULE) == "undecided"


def test_a_difference_that_is_not_a_number_is_undecided():
    assert decide(estimate(math.nan, 0.1), 0.01, "greater", 0.1, RULE) == "undecided"


def test_one_game_against_and_one_for_are_undecided_together():
    assert combine(["supported", "contradicted"]) == "undecided"
    assert combine(["supported", "undecided"]) == "supported"
    assert combine(["contradicted", "undecided"]) == "contradicted"
    assert combine([]) == "undecided"


def test_the_t_tests_by_hand():
    # mean 2, standard deviation 1, n 3: t = 2 * sqrt(3) with two degrees of freedom.
    greater, different = t_tests(np.array([1.0, 2.0, 3.0]))
    t = 2 * math.sqrt(3)
    assert different == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert greater == pytest.approx(different / 2)


def test_differences_without_spread_need_no_t_statistic():
    assert t_tests(np.full(5, 0.3)) == (0.0, 0.0)
    assert t_tests(np.zeros(5)) == (1.0, 1.0)
    assert t_tests(np.array([1.0])) == (1.0, 1.0)


def test_a_rule_out_of_range_names_the_bound_and_the_value():
    with pytest.raises(ValueError, match=r"`alpha` must be between 0 and 1, got 5"):
        Rule(alpha=5)
    with pytest.raises(ValueError, match=r"`min_seeds` must be at least 5, got 4"):
        Rule(min_seeds=4)
    with pytest.raises(ValueError, match="`paired` must be true or false, got 'no'"):
        Rule(paired="no")


def test_students_interval_is_scipys():
    differences = np.array([-1.79, -1.1, -0.2, -0.5, 0.0])
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert t_interval(differences) == pytest.approx((expected.low, expected.high))
    assert np.isnan(t_interval(differences[:1])).all()


def test_a_wider_interval_can_leave_open_what_the_bootstrap_rules_out():
    narrow = Estimate(-0.7, -1.2, -0.3, 0.96, 0.07, 5, -1.5, 0.2)
    assert decide(narrow, 1.0, "greater", 0.1, RULE) == "contradicted"
    assert decide(narrow.by_t(), 1.0, "greater", 0.1, RULE) == "undecided"


def test_welchs_estimate_is_as_worked_out_by_hand():
    values, signs = np.array([[4.0, 1.0], [6.0, 1.0], [8.0, 4.0]]), np.array([1.0, -1.0])
    found = welch(values, signs)
    # Variances 4 and 3 over three seeds each: squared errors 4/3 and 1.
    error = math.sqrt(7 / 3)
    freedom = 2 * (7 / 3) ** 2 / (16 / 9 + 1)
    half = stats.t.ppf(0.975, freedom) * error
    assert (found.mean, found.seeds) == (4.0, 3)
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half))
    assert found.p_different == pytest.approx(2 * found.p_greater)


def test_welchs_estimate_of_groups_of_different_sizes_is_as_worked_out_by_hand():
    values = np.array([[4.0, np.nan], [6.0, 1.0], [8.0, 3.0]])
    found = welch(values, np.array([1.0, -1.0]))
    # Variances 4 over three seeds and 2 over two: squared errors 4/3 and 1.
    freedom = (7 / 3) ** 2 / ((16 / 9) / 2 + 1 / 1)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(7 / 3)
    assert (found.mean, found.seeds) == (4.0, 2)
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half))
    alone = welch(values[:2], np.array([1.0, -1.0]))
    assert (alone.mean, alone.seeds, alone.p_greater) == (4.0, 1, 1.0)
    assert math.isnan(alone.low)


def test_welchs_estimate_of_one_seed_has_no_interval_and_of_equal_ones_no_width():
    signs = np.array([1.0, -1.0])
    alone = welch(np.array([[4.0, 1.0]]), signs)
    assert math.isnan(alone.low)
    assert alone.p_greater == 1.0
    same = welch(np.array([[4.0, 1.0], [4.0, 1.0]]), signs)
    assert (same.low, same.high, same.p_greater) == (3.0, 3.0, 0.0)
