"""Claims are read from a file, and judged on a table of results."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_study import GAMES, planned
from scipy import stats

from sb3_moe.study.judging import (
    Claim,
    Claims,
    Contrast,
    Rule,
    Selector,
    combine,
    compare,
    decide,
    judge,
    load_claims,
    missing,
    summarize,
    t_interval,
    values_of_groups,
    welch,
)
from sb3_moe.study.results import COLUMNS, WHOLE, complete_table

ONE, OTHER = GAMES
SEQUENCE, TURNED = " ".join(GAMES), " ".join(GAMES[::-1])
WELCH = Rule(paired=False)


def table(*rows, measure="final"):
    """A table of results from rows of regime, order, network, seed, task and value."""
    full = [(r, o, n, s, measure, t, pd.NA, v) for r, o, n, s, t, v in rows]
    return pd.DataFrame(full, columns=COLUMNS)


def ends(levels, task=ONE, regime="crl"):
    """A table in which each seed of a network ends at one of its levels."""
    return table(
        *((regime, SEQUENCE, name, seed, task, value)
          for name, values in levels.items() for seed, value in enumerate(values))
    )  # fmt: skip


def networks(*names, **selected):
    return tuple(Selector(architecture=name, **selected) for name in names)


def contrast(expects="greater", **changes):
    values = {"measure": "final", "plus": networks("soft-big"), "minus": networks("dense")}
    return Contrast(**{**values, "expects": expects, "smallest_effect": 0.1, **changes})


def claims(*contrasts, needs="any", **changes):
    claim = Claim(name="c", text="text", contrasts=contrasts, needs=needs)
    return Claims(claims=(claim,), **changes)


def compared(results, asked, **changes):
    """Give the values that a contrast compares, by task."""
    found = compare(results, asked.measure, asked.groups, Claims(**changes), asked.over)
    return {task: values.tolist() for task, values in found.items()}


def groups(results, *names, paired=True):
    """Give the values of each network by task and seed."""
    found = values_of_groups(results, networks(*names), paired)
    return {key: list(row) for key, row in zip(found.index, found.to_numpy(), strict=True)}


def test_what_no_run_tells_is_not_tested():
    found = judge(claims(contrast(plus=networks("task-big"))), ends({"dense": [1]}))
    (row,) = found.itertuples()
    assert (row.verdict, row.claim_verdict, row.seeds) == ("not tested", "not tested", 0)
    assert math.isnan(row.difference)


def test_holm_counts_the_primary_contrasts_only():
    rng = np.random.default_rng(1)
    levels = {"dense": 10 + rng.normal(size=5), "soft-big": 12 + rng.normal(size=5)}
    results = pd.concat([ends(levels), ends(levels | {"dense": 11 + rng.normal(size=5)}, OTHER)])
    found = judge(claims(contrast(), contrast(primary=False)), results)
    primary = found[found.primary]
    p = sorted(primary.p)
    assert sorted(primary.p_adjusted) == pytest.approx([2 * p[0], max(2 * p[0], p[1])])
    assert found[~found.primary].p_adjusted.isna().all()


def row(mean, half_width, p=0.01, expects="greater", seeds=5):
    return {
        "difference": mean, "low": mean - half_width, "high": mean + half_width, "seeds": seeds,
        "p": p, "p_adjusted": math.nan, "expects": expects, "smallest_effect": 0.1,
    }  # fmt: skip


def test_the_rule_by_hand():
    for given, verdict in (
        (row(0.5, 0.1), "supported"),
        (row(0.5, 0.1) | {"p_adjusted": 0.06}, "undecided"),
        (row(0.05, 0.04), "contradicted"),
        (row(0.08, 0.04), "undecided"),
        (row(0.5, 0.1, expects="not_greater"), "contradicted"),
        (row(0.0, 0.05, expects="not_greater"), "supported"),
        (row(-0.5, 0.1, expects="different"), "supported"),
        (row(-0.02, 0.05, 0.7, "different"), "contradicted"),
        (row(-0.02, 0.2, 0.7, "different"), "undecided"),
        (row(9.0, 0.01, seeds=4), "undecided"),
        (row(9.0, 0.01, seeds=0), "not tested"),
    ):
        assert decide(given, Rule()) == verdict


def test_one_task_against_and_one_for_are_undecided_together():
    assert combine(["supported", "contradicted"]) == "undecided"
    assert combine(["supported", "undecided", "not tested"]) == "supported"
    assert combine(["contradicted", "undecided"]) == "contradicted"
    assert combine(["supported", "undecided"], every=True) == "undecided"
    assert combine(["supported", "contradicted"], every=True) == "contradicted"
    assert combine([]) == combine(["not tested"], every=True) == "not tested"


def test_pairs_without_both_sides_are_left_out():
    results = ends({"dense": [1, 2, 3, 4], "soft-big": [math.nan, math.nan, 30, 40]})
    assert groups(results, "soft-big", "dense") == {(ONE, 2): [30, 3], (ONE, 3): [40, 4]}


@pytest.mark.parametrize("other", [("crl", TURNED), ("mtrl", "")])
def test_an_order_or_regime_that_one_side_lacks_does_not_pass_for_a_difference(other):
    # Both networks are alike in each; the other one is ten times as hard.
    rows = [("crl", SEQUENCE, name, 0, ONE, 10.0) for name in ("dense", "soft-big")]
    results = table(*rows, (*other, "dense", 0, ONE, 1.0))
    assert groups(results, "soft-big", "dense") == {(ONE, 0): [10.0, 10.0]}
    # An order that a claim names is compared all the same.
    named = networks("soft-big", order=GAMES) + networks("dense")
    assert values_of_groups(results, named).to_numpy().tolist() == [[10.0, 5.5]]


def test_a_regime_that_a_claim_names_on_one_side_is_the_other_sides_too():
    results = table(
        *((regime, order, name, 0, ONE, value) for name in ("dense", "soft-big")
          for regime, order, value in (("crl", SEQUENCE, 1.0), ("mtrl", "", 10.0)))
    )  # fmt: skip
    for one, other, expected in (
        (None, "crl", [1, 1]),
        ("mtrl", None, [10, 10]),
        ("mtrl", "crl", [10, 1]),
    ):
        sides = networks("soft-big", regime=one) + networks("dense", regime=other)
        assert values_of_groups(results, sides).to_numpy().tolist() == [expected]


@pytest.mark.parametrize("paired", [True, False])
def test_a_seed_counts_once_it_has_every_order_of_the_study(paired):
    rows = [
        ("crl", order, name, seed, ONE, value)
        for name in ("dense", "soft-big")
        for seed in range(2)
        for order, value in ((SEQUENCE, 10.0), (TURNED, 1.0))
    ]
    rows[-1] = (*rows[-1][:-1], math.nan)  # soft-big's last seed lacks one
    found = groups(table(*rows), "soft-big", "dense", paired=paired)
    np.testing.assert_array_equal(found.pop((ONE, 0)), [5.5, 5.5])
    np.testing.assert_array_equal(list(found.values()), [] if paired else [[math.nan, 5.5]])


def test_a_difference_of_differences_by_hand():
    levels = {("crl", "soft-big"): 7, ("crl", "dense"): 4, ("mtrl", "soft-big"): 5}
    levels["mtrl", "dense"] = 3
    results = table(*((regime, "", n, 0, ONE, v) for (regime, n), v in levels.items()))
    pairs = [Selector(architecture=name, regime=regime) for regime, name in levels]
    both = contrast(plus=(pairs[0], pairs[3]), minus=(pairs[1], pairs[2]))
    (values,) = compared(results, both)[ONE]
    assert values @ both.signs == (7 - 4) - (5 - 3)


def test_without_pairs_each_group_has_all_of_its_own_seeds_and_the_smallest_counts():
    rng = np.random.default_rng(0)
    dense, soft = 10 + rng.normal(size=7), 12 + rng.normal(size=6)
    results = pd.concat([ends({"dense": dense}), ends({"soft-big": soft}).assign(seed=range(3, 9))])
    results = pd.concat([results, ends({"dense": dense}, OTHER)])  # which only one of them has
    test = stats.ttest_ind(soft, dense, equal_var=False, alternative="greater")
    interval = stats.ttest_ind(soft, dense, equal_var=False).confidence_interval(0.95)
    (found,) = judge(claims(contrast(), rule=WELCH), results).itertuples()
    assert found.difference == pytest.approx(np.mean(soft) - np.mean(dense))
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.seeds, found.verdict) == (6, "supported")
    # Paired, only seeds 3 to 6 have both.
    assert judge(claims(contrast()), results).seeds.tolist() == [4]


def test_over_tasks_a_seed_has_one_value_if_it_has_every_task():
    results = pd.concat(
        [ends({"dense": [1, 2, 4], "soft-big": [5, 6, 9]}),
         ends({"dense": [3, 3, 3], "soft-big": [4, 4, math.nan]}, OTHER)]
    )  # fmt: skip
    assert compared(results, contrast(over="tasks")) == {WHOLE: [[4.5, 2.0], [5.0, 2.5]]}


def test_units_put_returns_on_one_scale_before_their_mean_and_no_other_measure():
    results = pd.concat(
        [ends({"dense": [10.0], "soft-big": [30.0]}),
         ends({"dense": [1.0], "soft-big": [2.0]}, OTHER)]
    )  # fmt: skip
    units = {ONE: 10.0, OTHER: 4.0}
    found = compared(results, contrast(over="tasks"), units=units)
    assert found == {WHOLE: [[(3 + 0.5) / 2, (1 + 0.25) / 2]]}
    ratio = contrast(measure="relative_area", over="tasks")
    found = compared(results.assign(measure="relative_area"), ratio, units=units)
    assert found == {WHOLE: [[16.0, 5.5]]}


def test_a_claim_that_needs_all_holds_only_if_every_row_does_and_needs_no_correction():
    rng = np.random.default_rng(1)
    levels = {"dense": 10.0, "soft-big": 9.0, "task-big": 9.9, "uniform-big": 12.0}
    results = ends({name: level + 0.1 * rng.normal(size=5) for name, level in levels.items()})

    def as_good_as(*names):
        asked = (
            contrast("not_greater", plus=networks(name), smallest_effect=0.5) for name in names
        )
        return judge(claims(*asked, needs="all"), results)

    both = as_good_as("soft-big", "task-big")
    assert set(both.claim_verdict) == {"supported"}
    assert both.p_adjusted.isna().all()
    assert set(as_good_as("soft-big", "uniform-big").claim_verdict) == {"contradicted"}
    # A network that wasn't run can't be passed over; one that is better contradicts all the same.
    assert set(as_good_as("soft-big", "random-big").claim_verdict) == {"undecided"}
    assert set(as_good_as("uniform-big", "random-big").claim_verdict) == {"contradicted"}


def test_students_interval_and_welchs_test_of_one_group_are_scipys():
    differences = np.array([-1.79, -1.1, -0.2, -0.5, 0.0])
    test = stats.ttest_1samp(differences, 0.0, alternative="greater")
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert t_interval(differences) == pytest.approx((expected.low, expected.high))
    assert np.isnan(t_interval(differences[:1])).all()
    both = t_interval(np.stack([differences, 2 * differences], axis=1))
    assert both[0] == pytest.approx([expected.low, 2 * expected.low])
    found = welch(differences[:, None], np.ones(1), WELCH, "greater")
    assert (found.low, found.high, found.p) == pytest.approx(
        (expected.low, expected.high, test.pvalue)
    )


def test_an_estimate_of_one_seed_has_no_interval_and_of_equal_ones_no_width():
    signs = np.array([1.0, -1.0])
    alone = welch(np.array([[4.0, 1.0]]), signs, WELCH)
    assert math.isnan(alone.low)
    assert (alone.difference, alone.p) == (3.0, 1.0)
    same = welch(np.array([[4.0, 1.0], [4.0, 1.0]]), signs, WELCH)
    assert (same.low, same.high, same.p) == (3.0, 3.0, 0.0)
    assert welch(np.zeros((3, 1)), np.ones(1), WELCH).p == 1.0


def test_a_task_that_the_first_network_has_not_finished_is_shown_without_a_comparison():
    results = pd.concat([ends({"dense": [1.0, 2.0], "soft-big": [3.0, 4.0]}),
                         ends({"soft-big": [5.0, 7.0]}, OTHER)])  # fmt: skip
    found = summarize(results, Claims(), ["dense", "soft-big"]).set_index(["architecture", "task"])
    assert found.loc["soft-big", OTHER]["mean"] == 6.0
    assert math.isnan(found.loc["soft-big", OTHER].difference)
    assert found.loc["soft-big", ONE].difference == 2.0


def test_every_network_is_compared_with_the_first_on_each_task_and_over_all():
    rng = np.random.default_rng(0)
    low, high = 10 + rng.normal(size=6), 20 + rng.normal(size=6)
    results = pd.concat(
        [ends({"dense": low, "better": high, "alike": low[::-1]}),
         ends({"dense": low, "better": high + 1, "alike": low}, OTHER)]
    )  # fmt: skip
    networks = ["dense", "better", "alike"]
    found = summarize(results, Claims(), networks).set_index(["architecture", "task"])
    better = found.loc["better", ONE]
    assert (better["mean"], better.seeds) == (pytest.approx(high.mean()), 6)
    assert better.iqm == pytest.approx(np.sort(high)[1:-1].mean())
    assert (better.low, better.high) == pytest.approx(t_interval(high))
    test = stats.ttest_rel(high, low)
    interval = test.confidence_interval(0.95)
    assert better.p == pytest.approx(test.pvalue)
    assert (better.difference_low, better.difference_high) == pytest.approx(
        (interval.low, interval.high)
    )
    assert found.loc["better"].verdict.tolist() == ["higher"] * 3
    assert found.loc["alike"].verdict.tolist() == ["undecided"] * 3
    assert found.loc["dense"].p.isna().all()
    assert found.loc["better", WHOLE]["mean"] == pytest.approx((high + 0.5).mean())
    # Four tests of single tasks are one family, the two of their means another.
    tasks = found.loc["better"].drop(WHOLE)
    assert tasks.p_holm.min() == pytest.approx(4 * tasks.p.min())
    assert found.loc["better", WHOLE].p_holm == pytest.approx(2 * found.loc["better", WHOLE].p)
    assert summarize(results, Claims(), networks[::-1]).architecture[0] == "alike"
    few = summarize(ends({"dense": [1, 2], "better": [11, 12.1]}), Claims(), networks)
    assert few.verdict.tolist() == ["", "undecided"]


# A claim that can be read, for tests to spoil.
SOUND = """
claims:
  - name: a
    text: b
    contrasts:
      - {measure: final, plus: [{architecture: x}], minus: [], expects: greater, smallest_effect: 1}
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"`claims` must be a file of claims and their rule, got claims.yaml: .* got None"),
        ("rule: {alfa: 1}\nclaims: []", r"there is no entry `rule.alfa`"),
        ("claims: [{name: bare, text: t}]", r"contrasts` must be given"),
        ("rule: {min_seeds: 4}" + SOUND, r"`rule.min_seeds` must be greater than or equal to 5"),
        ("units: {x: 1}" + SOUND, r"`units` must name A, got x"),
        (SOUND + SOUND.partition("claims:")[2], r"`name` of claims must be different from each"),
        (SOUND.replace("[{architecture: x}]", "[]"), r"plus` .*at least 1 item"),
        (SOUND.replace("final", "luck"), r"measure` must be 'block_end', .*, got 'luck'"),
        (SOUND.replace("greater", "more"), r"expects` must be 'greater', .*, got 'more'"),
    ],
)
def test_a_file_of_claims_that_cant_be_read_is_refused_in_words(tmp_path: Path, text, said):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load_claims(path, ("A",))
    assert len(str(caught.value).splitlines()) == 1  # nothing of what follows from it


def test_without_anything_to_subtract_the_sum_itself_is_tested_in_numbers_as_written(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(SOUND.replace("architecture: x", "architecture: dense, order: []"))
    (found,) = judge(load_claims(path, ()), ends({"dense": [10, 11, 12, 13, 14]})).itertuples()
    assert (found.difference, found.verdict) == (12.0, "supported")
    assert str(found.smallest_effect) == "1"


def test_what_a_study_will_have_no_value_of_is_named_before_the_runs():
    def lines(runs, measure, of="dense"):
        return missing(
            claims(contrast(plus=networks(of), minus=(), measure=measure)), complete_table(runs)
        )

    one, both = [planned("crl", GAMES)], [planned("crl", GAMES), planned("crl", GAMES[::-1])]
    mixed = [planned("mtrl"), planned("mtrl", name="moe")]
    said = "claim 'c': no run gives `{}` of {} for {}"
    assert lines(one, "final", "dens") == [said.format("final", WHOLE, "dens")]
    assert lines(mixed, "forgetting") == [said.format("forgetting", WHOLE, "dense")]
    # Which needs a run that begins with it.
    assert lines(one, "plasticity") == [said.format("plasticity", OTHER, "dense")]
    assert lines(both, "plasticity") == []
