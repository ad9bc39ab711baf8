from pathlib import Path

import numpy as np
import pytest
from made_up_study import GAMES, cell, run
from scipy import stats

from sb3_moe.study.report.claims import Claim, Claims, Contrast, Selector, load_claims
from sb3_moe.study.report.judging import judge_claims
from sb3_moe.study.report.measures import WHOLE, measure
from sb3_moe.study.report.references import References
from sb3_moe.study.report.verdict import Rule
from sb3_moe.study.spec.grid import PRESETS, load_study

RANDOM = dict.fromkeys(GAMES, 1.0)


def contrast(expects="greater", **changes):
    values = {
        "measure": "relative_area",
        "plus": (Selector(architecture="soft-big", regime="crl"),),
        "minus": (Selector(architecture="dense", regime="crl"),),
        "expects": expects,
        "smallest_effect": 0.1,
    }
    return Contrast(**{**values, **changes})


def judge_one(runs, *contrasts):
    claim = Claim(name="c", text="text", contrasts=contrasts)
    return judge_claims(Claims(claims=(claim,)), runs, References(runs, RANDOM))[0]


def judged(effect, seeds=5, expects="greater", noise=0.02, **changes):
    """Judge a made-up study in which soft-big's areas are dense's times 1 + effect."""
    rng = np.random.default_rng(0)
    runs = [
        run(cell("crl", order, name, seed), 1.0 + 9.0 * (1 + gain + noise * rng.normal()))
        for seed in range(seeds)
        for order in (GAMES, GAMES[::-1])
        for name, gain in (("dense", 0.0), ("soft-big", effect))
    ]
    claims = Claims(
        claims=(Claim(name="c", text="text", contrasts=(contrast(expects, **changes),)),)
    )
    return judge_claims(claims, runs, References(runs, RANDOM))[0]


def test_a_known_gain_is_found_and_supported():
    finding = judged(0.5)
    assert finding.verdict == "supported"
    assert [row.game for row in finding.rows] == sorted(GAMES)
    assert finding.rows[0].estimate.mean == pytest.approx(0.5, abs=0.05)


def test_a_known_loss_contradicts():
    assert judged(-0.5).verdict == "contradicted"


def test_no_effect_with_little_noise_contradicts():
    assert judged(0.0).verdict == "contradicted"


def test_the_verdict_by_students_intervals_stands_beside_the_other():
    assert judged(0.5).verdict_by_t == "supported"
    assert judged(0.0).verdict_by_t == "contradicted"


def test_no_effect_with_much_noise_is_undecided():
    assert judged(0.1, noise=0.5).verdict == "undecided"


@pytest.mark.parametrize("effect", [-0.5, 0.0, 0.5])
def test_four_seeds_are_undecided_whatever_they_show(effect):
    assert judged(effect, seeds=4).verdict == "undecided"


def test_a_claim_without_its_runs_has_no_rows_and_no_verdict():
    finding = judged(0.5, plus=(Selector(architecture="task-big"),))
    assert finding.rows == []
    assert finding.verdict == "undecided"


def test_holm_counts_the_primary_contrasts_only():
    rng = np.random.default_rng(1)
    runs = [
        run(cell("crl", GAMES, name, seed), 10.0 + gain + rng.normal())
        for seed in range(5)
        for name, gain in (("dense", 0.0), ("soft-big", 2.0))
    ]
    one = contrast(measure="final")
    aside = contrast(measure="final", primary=False)
    rows = judge_one(runs, one, aside).rows
    primary = [row for row in rows if row.contrast.primary]
    p = sorted(row.estimate.p_greater for row in primary)
    assert sorted(row.p_adjusted for row in primary) == pytest.approx(
        [2 * p[0], max(2 * p[0], p[1])]
    )
    for row in rows:
        if not row.contrast.primary:
            assert row.p_adjusted == row.estimate.p_greater


def test_pairs_without_both_sides_are_left_out():
    runs = [run(cell("crl", GAMES, "dense", seed)) for seed in range(5)]
    runs += [run(cell("crl", GAMES, "soft-big", seed)) for seed in (3, 4)]
    values = contrast(measure="final").differences(
        [(r, dict.fromkeys(GAMES, r.cell.seed + 1.0)) for r in runs]
    )
    assert sorted({seed for seed, _ in values}) == [3, 4]
    assert set(values.values()) == {0.0}


def test_an_order_that_one_side_lacks_does_not_pass_for_a_difference():
    # Both networks are alike in each order; one order is ten times as hard.
    levels = {GAMES: 10.0, GAMES[::-1]: 1.0}
    runs = [
        run(cell("crl", order, name, seed))
        for seed in range(5)
        for name, orders in (("dense", list(levels)), ("soft-big", [GAMES]))
        for order in orders
    ]
    values = contrast(measure="final").differences(
        [(r, dict.fromkeys(GAMES, levels[r.cell.order])) for r in runs]
    )
    assert len(values) == 10
    assert set(values.values()) == {0.0}


def test_a_regime_that_one_side_lacks_does_not_pass_for_a_difference():
    # Both networks are alike in each regime; where games come in turn all is ten times as hard.
    levels = {"mtrl": 10.0, "crl": 1.0}
    runs = [
        run(cell(regime, GAMES, name))
        for name, regimes in (("dense", list(levels)), ("soft-big", ["crl"]))
        for regime in regimes
    ]
    groups = [(Selector(architecture=name),) for name in ("dense", "soft-big")]
    for plus, minus in (groups, groups[::-1]):
        values = contrast(measure="final", plus=plus, minus=minus).differences(
            [(r, dict.fromkeys(GAMES, levels[r.cell.regime])) for r in runs]
        )
        assert list(values.values()) == [0.0, 0.0]


def test_orders_that_a_claim_names_are_compared_with_each_other():
    runs = [run(cell("crl", order, "dense")) for order in (GAMES, GAMES[::-1])]
    first, second = (Selector(architecture="dense", order=r.cell.order) for r in runs)
    values = contrast(plus=(first,), minus=(second,)).differences(
        [(r, {"Breakout": level}) for r, level in zip(runs, (5.0, 3.0), strict=True)]
    )
    assert values == {(0, "Breakout"): 2.0}


def test_a_difference_of_differences_by_hand():
    levels = {
        ("crl", "soft-big"): 7,
        ("crl", "dense"): 4,
        ("mtrl", "soft-big"): 5,
        ("mtrl", "dense"): 3,
    }
    runs = [run(cell(regime, GAMES, name)) for regime, name in levels]
    both = contrast(
        plus=(
            Selector(architecture="soft-big", regime="crl"),
            Selector(architecture="dense", regime="mtrl"),
        ),
        minus=(
            Selector(architecture="dense", regime="crl"),
            Selector(architecture="soft-big", regime="mtrl"),
        ),
    )
    measured = [(r, {"Breakout": levels[r.cell.regime, r.cell.architecture.name]}) for r in runs]
    assert both.differences(measured) == {(0, "Breakout"): (7 - 4) - (5 - 3)}


def test_the_packages_claims_are_six_and_name_their_runs():
    claims = load_claims(load_study("smoke").claims)
    assert len(claims.claims) == 6
    assert all(any(c.primary for c in claim.contrasts) for claim in claims.claims)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_primary_claim_of_a_preset_names_columns_that_exist(preset):
    study = load_study(preset)
    known = {a.name for a in study.architectures}
    named = {
        s.architecture
        for claim in load_claims(study.claims).claims
        for c in claim.contrasts
        if c.primary
        for s in c.plus + c.minus
    }
    assert {"dense", "soft-big"} <= known & named


def test_a_claim_that_cant_be_read_is_named(tmp_path: Path):
    path = tmp_path / "claims.yaml"
    path.write_text(
        "claims: [{name: odd, text: t, contrasts: [{measure: luck, plus: [], minus: []}]}]"
    )
    with pytest.raises(ValueError, match=r"claims.yaml: claim 'odd': `contrasts\[0\].expects`"):
        load_claims(path)


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
        ("rule: {}", r"`claims` must be a file .*: `claims` must be given"),
        ("rule: {alfa: 1}\nclaims: []", r"there is no entry `rule.alfa`; did you mean `alpha`\?"),
        ("claims: [5]", r"claim 5: it must be a mapping"),
        ("claims: [{name: bare, text: t}]", r"claim 'bare': `contrasts` must be given"),
        ("claims: [", r"`claims` must be a file"),
        ("claims: [{name: a, text: b, contrasts: []}]", r"`contrasts` must have at least one"),
        ("rules: {paired: false}" + SOUND, r"there is no entry `rules`; did you mean `rule`\?"),
        ("rule: {min_seeds: 5.5}" + SOUND, r"`rule.min_seeds` must be a whole number, got 5.5"),
        ("units: {x: true}" + SOUND, r"`units.x` must be .*a number, got True"),
        ("units: {x: .inf}" + SOUND, r"`units` must be numbers above 0, got inf"),
        (SOUND + SOUND.partition("claims:")[2], r"`name` of claims must be different from each"),
        (SOUND + "    need: all", r"claim 'a': there is no entry `need`; did you mean `needs`\?"),
        (
            SOUND.replace("smallest", "smalest"),
            r"there is no entry `contrasts\[0\].smalest_effect`; did you mean `smallest_effect`\?",
        ),
        (
            SOUND.replace("{architecture: x}", "{architecture: x, ordre: [A]}"),
            r"there is no entry `contrasts\[0\].plus\[0\].ordre`; did you mean `order`\?",
        ),
        (SOUND.replace("minus: []", "minus: [{architecture: }]"), r"architecture` must be text"),
        (SOUND.replace("[{architecture: x}]", "[]"), r"`plus` must have at least one group, got"),
        (SOUND.replace("x}", "x, order: A}"), r"plus\[0\].order` must be a list, got 'A'"),
        (SOUND.replace("1}", "1, primary: 'false'}"), r"primary` must be true or false, got 'fals"),
        (SOUND.replace("1}", ".nan}"), r"`smallest_effect` must be above 0, got nan"),
        (SOUND.replace("1}", "1, units: {x: 2}}"), r"`units` must stand beside `rule`"),
    ],
)
def test_a_file_of_claims_that_cant_be_read_is_refused_in_words(tmp_path: Path, text, said):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        load_claims(path)


def test_without_anything_to_subtract_the_sum_itself_is_tested(tmp_path: Path):
    path = tmp_path / "claims.yaml"
    path.write_text(SOUND.replace("architecture: x", "architecture: dense, order: []"))
    runs = [run(cell("crl", GAMES, "dense", seed), 10.0 + seed) for seed in range(5)]
    finding = judge_claims(load_claims(path), runs, References(runs, RANDOM))[0]
    assert finding.verdict == "supported"
    assert finding.rows[0].estimate.mean == pytest.approx(12.0)


def test_a_group_that_no_run_belongs_to_is_named_once():
    cells = [cell("crl", order, "dense") for order in (GAMES, GAMES[::-1])]
    there = Selector(architecture="dense", regime="crl", order=GAMES)
    strangers = (
        Selector(architecture="dens", regime="crl"),
        Selector(architecture="dense", regime="mtrl"),
        Selector(architecture="dense", order=GAMES[:1]),
    )
    contrasts = (contrast(plus=(there,), minus=strangers), contrast(minus=strangers[:1]))
    claims = Claims(claims=(Claim(name="c", text="text", contrasts=contrasts),))
    said = "claim 'c' compares what no run of this study is: "
    assert claims.without_runs(cells) == [
        f"{said}{{regime: crl, architecture: dens}}",
        f"{said}{{regime: mtrl, architecture: dense}}",
        f"{said}{{architecture: dense, order: [SpaceInvaders]}}",
        f"{said}{{regime: crl, architecture: soft-big}}",
    ]


def test_a_measure_that_no_run_will_have_is_named_before_the_runs():
    def lines(cells, **values):
        there = Selector(architecture=values.pop("of", "dense"))
        claim = Claim(name="c", text="t", contrasts=(contrast(plus=(there,), minus=(), **values),))
        return Claims(claims=(claim,)).without_values(cells)

    one, both = [cell("crl", GAMES)], [cell("crl", GAMES), cell("crl", GAMES[::-1])]
    mixed = [cell("mtrl"), cell("mtrl", name="moe")]
    assert lines(mixed, measure="forgetting") == [
        "claim 'c': `forgetting` is of no task that all of Dense have"
    ]
    needs = (
        "claim 'c': `{}` needs {} alone on {}, or at the start of a sequence, with new weights, "
        "and no run of "
    )
    first, last = GAMES
    assert lines(one, measure="plasticity") == [
        needs.format("plasticity", "dense", last) + "this study is that"
    ]
    assert lines(both, measure="plasticity") == []
    assert lines([*both, cell("scratch", (last,))], measure="plasticity") == [
        needs.format("plasticity", "dense", first) + "this study is that"
    ]
    for name in ("relative_area", "average_performance"):
        assert lines(mixed, of="moe", measure=name) == [
            needs.format(name, "dense", game) + "this study is that" for game in GAMES
        ]
    assert lines(mixed, of="moe", measure="success_area") == []
    assert lines(mixed, of="nobody", measure="plasticity") == []  # said elsewhere


def test_numbers_stay_as_a_file_has_them_whole_or_not(tmp_path: Path):
    path = tmp_path / "claims.yaml"
    path.write_text("units: {x: 9, y: 3.5}" + SOUND)
    claims = load_claims(path)
    shown = [*claims.units.values(), claims.claims[0].contrasts[0].smallest_effect]
    assert list(map(str, shown)) == ["9", "3.5", "1"]


def test_claims_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"`claims` must be a file .*nowhere.yaml"):
        load_claims(tmp_path / "nowhere.yaml")


def test_a_regime_that_does_not_exist_is_refused():
    with pytest.raises(
        ValueError, match=r"`regime` must be one of mtrl, crl, scratch, schedule, got .cl."
    ):
        Selector(architecture="dense", regime="cl")


def test_a_contrast_out_of_range_names_the_rule_and_the_value():
    with pytest.raises(ValueError, match=r"`measure` must be one of .*, got luck"):
        contrast(measure="luck")
    with pytest.raises(ValueError, match=r"`expects` must be one of greater.*got 'more'"):
        contrast("more")
    with pytest.raises(ValueError, match=r"`smallest_effect` must be above 0, got 0"):
        contrast(smallest_effect=0)


def composites(dense, soft):
    """Make runs whose two tasks end a seed's value below and above it."""
    rows = [(name, seed, value) for name, values in (("dense", dense), ("soft-big", soft))
            for seed, value in enumerate(values)]  # fmt: skip
    return [run(cell("crl", GAMES, name, seed), value) for name, seed, value in rows]


def test_over_tasks_a_seed_has_one_value_and_a_contrast_one_row():
    runs = composites([1.0, 2.0, 4.0, 3.0, 5.0], [5.0, 6.0, 9.0, 7.0, 8.0])
    each = judge_one(runs, contrast(measure="final")).rows
    (row,) = judge_one(runs, contrast(measure="final", over="tasks")).rows
    assert row.game == WHOLE
    assert row.estimate.mean == pytest.approx(np.mean([one.estimate.mean for one in each]))
    assert row.estimate.seeds == 5


def test_over_tasks_a_seed_that_lacks_a_task_is_left_out():
    measured = [
        (run(cell("crl", GAMES, name, seed), 1.0), dict(values))
        for name in ("dense", "soft-big")
        for seed, values in ((0, {GAMES[0]: 1.0, GAMES[1]: 2.0}), (1, {GAMES[0]: 1.0}))
    ]
    assert set(contrast(over="tasks").differences(measured)) == {(0, WHOLE)}


def test_over_tasks_a_task_that_no_seed_has_a_value_of_is_not_passed_over():
    # Breakout's reference is no better than random.
    runs = [
        run(cell("crl", order, name, seed), 0.5 if order[0] == "Breakout" else 10.0)
        for seed in range(5)
        for order in (GAMES, GAMES[::-1])
        for name in ("dense", "soft-big")
    ]
    assert len(judge_one(runs, contrast(measure="plasticity")).rows) == 1
    assert judge_one(runs, contrast(measure="plasticity", over="tasks")).rows == []


def test_over_tasks_orders_of_the_study_that_nobody_has_run_yet_leave_tasks_missing():
    cells = [
        cell("crl", order, name, seed)
        for seed in range(5)
        for order in (GAMES, GAMES[::-1])
        for name in ("dense", "soft-big")
    ]
    runs = [run(each) for each in cells if each.order == GAMES or each.seed < 2]
    over = contrast(measure="gain", over="tasks")
    references = References([run(each) for each in cells], RANDOM)
    measured = [(each, measure("gain", each, references)) for each in runs]
    assert {seed for seed, _ in over.groups(measured, cells)} == {0, 1}
    # A study of that order alone asks for the gain of its second task and no other.
    asked = [each for each in cells if each.order == GAMES]
    assert {seed for seed, _ in over.groups(measured, asked)} == set(range(5))


def test_over_tasks_those_that_say_nothing_of_success_are_left_out():
    measured = [
        (run(cell("crl", GAMES, name)), {GAMES[0]: value, GAMES[1]: float("nan")})
        for name, value in (("dense", 0.25), ("soft-big", 1.0))
    ]
    over = contrast(measure="success", over="tasks")
    assert over.differences(measured) == {(0, WHOLE): 0.75}


def test_over_tasks_a_measure_of_the_whole_run_stays_as_it_is():
    runs = [
        run(cell("crl", GAMES, name), dormant=d) for name, d in (("dense", 0.5), ("soft-big", 0.2))
    ]
    (row,) = judge_one(runs, contrast(measure="dormant", over="tasks")).rows
    assert row.estimate.mean == pytest.approx(-0.3)


def test_without_pairs_the_estimate_is_welchs():
    dense, soft = [1.0, 2.0, 4.0, 3.0, 5.0], [5.0, 6.0, 19.0, 7.0, 8.0]
    runs = composites(dense, soft)
    claim = Claim(name="c", text="text", contrasts=(contrast(measure="final", over="tasks"),))
    claims = Claims(rule=Rule(paired=False), claims=(claim,))
    (row,) = judge_claims(claims, runs, References(runs, RANDOM))[0].rows
    per_run = contrast(measure="final", over="tasks").groups(
        [(each, measure("final", each, References(runs, RANDOM))) for each in runs]
    )
    plus, minus = np.array(list(per_run.values())).T
    test = stats.ttest_ind(plus, minus, equal_var=False, alternative="greater")
    interval = stats.ttest_ind(plus, minus, equal_var=False).confidence_interval(0.95)
    assert row.estimate.p_greater == pytest.approx(test.pvalue)
    assert (row.estimate.low, row.estimate.high) == pytest.approx((interval.low, interval.high))
    assert (row.estimate.t_low, row.estimate.t_high) == (row.estimate.low, row.estimate.high)


def unpaired(runs, *contrasts):
    claims = Claims(
        rule=Rule(paired=False), claims=(Claim(name="c", text="t", contrasts=contrasts),)
    )
    return judge_claims(claims, runs, References(runs, RANDOM))[0].rows


def test_without_pairs_each_group_has_all_of_its_own_seeds_and_the_smallest_counts():
    rng = np.random.default_rng(0)
    levels = {
        ("dense", seed): 10.0 + rng.normal() for seed in range(7)
    } | {("soft-big", seed): 12.0 + rng.normal() for seed in range(3, 9)}  # fmt: skip
    runs = [run(cell("crl", GAMES, *key), level) for key, level in levels.items()]
    (row,) = unpaired(runs, contrast(measure="final", over="tasks"))
    dense, soft = (
        [level for (name, _), level in levels.items() if name == wanted]
        for wanted in ("dense", "soft-big")
    )
    test = stats.ttest_ind(soft, dense, equal_var=False, alternative="greater")
    interval = stats.ttest_ind(soft, dense, equal_var=False).confidence_interval(0.95)
    assert row.estimate.mean == pytest.approx(np.mean(soft) - np.mean(dense))
    assert row.estimate.p_greater == pytest.approx(test.pvalue)
    assert (row.estimate.low, row.estimate.high) == pytest.approx((interval.low, interval.high))
    assert row.estimate.seeds == 6
    assert row.verdict == "supported"
    # Paired, only seeds 3 to 6 have both.
    assert judge_one(runs, contrast(measure="final", over="tasks")).rows[0].estimate.seeds == 4


def test_without_pairs_a_group_without_runs_is_not_compared():
    runs = [run(cell("crl", GAMES, "dense", seed)) for seed in range(5)]
    assert unpaired(runs, contrast(measure="final")) == []
    assert unpaired(runs, contrast(measure="final", over="tasks")) == []


def test_without_pairs_a_seed_that_lacks_an_order_does_not_count_with_the_other_alone():
    # Both networks are alike in each order, one order is ten times as hard, one run is missing.
    levels = {GAMES: 10.0, GAMES[::-1]: 1.0}
    lacking = ("soft-big", 5, GAMES[::-1])
    runs = [
        run(cell("crl", order, name, seed))
        for name in ("dense", "soft-big")
        for seed in range(6)
        for order in levels
        if (name, seed, order) != lacking
    ]
    found = contrast(measure="final").groups(
        [(r, dict.fromkeys(GAMES, levels[r.cell.order])) for r in runs], paired=False
    )
    for game in GAMES:
        np.testing.assert_array_equal(found[0, game], [5.5, 5.5])
        np.testing.assert_array_equal(found[5, game], [np.nan, 5.5])


def test_without_pairs_an_order_that_only_one_group_has_yet_counts_in_neither():
    levels = {GAMES: 10.0, GAMES[::-1]: 1.0}
    runs = [
        run(cell("crl", order, name, seed))
        for name, seeds, orders in (
            ("dense", (0, 1), list(levels)),
            ("soft-big", (1, 2), [GAMES]),
        )
        for seed in seeds
        for order in orders
    ]
    found = contrast(measure="final").groups(
        [(r, dict.fromkeys(GAMES, levels[r.cell.order])) for r in runs], paired=False
    )
    rows = [found[seed, "Breakout"] for seed in range(3)]
    np.testing.assert_array_equal(rows, [[np.nan, 10.0], [10.0, 10.0], [10.0, np.nan]])


def test_a_contrast_over_anything_else_is_refused():
    with pytest.raises(ValueError, match="`over` must be 'tasks', or left out, got 'seeds'"):
        contrast(over="seeds")


def test_units_put_tasks_on_one_scale_before_their_mean():
    measured = [
        (run(cell("crl", GAMES, name)), {GAMES[0]: first, GAMES[1]: second})
        for name, first, second in (("dense", 10.0, 1.0), ("soft-big", 30.0, 2.0))
    ]
    units = {GAMES[0]: 10.0, GAMES[1]: 4.0}
    scaled = contrast(measure="area", over="tasks", units=units)
    assert scaled.differences(measured) == {(0, WHOLE): (20 / 10 + 1 / 4) / 2}
    ratio = contrast(measure="relative_area", over="tasks", units=units)
    assert ratio.differences(measured) == {(0, WHOLE): (20 + 1) / 2}


def test_units_are_read_from_the_file_and_checked_against_the_tasks(tmp_path: Path):
    path = tmp_path / "claims.yaml"
    path.write_text("units: {A: 2, B: 3}" + SOUND)
    claims = load_claims(path)
    assert claims.claims[0].contrasts[0].units == {"A": 2, "B": 3}
    claims.check_tasks(["B", "A"])
    with pytest.raises(ValueError, match="`units` must name A, C, got A, B"):
        claims.check_tasks(["A", "C"])
    for wrong in (0, "2"):
        with pytest.raises(ValueError, match=f"`units` must be numbers above 0, got {wrong!r} for"):
            Claims(units={"A": wrong})


def test_a_claim_that_needs_all_holds_only_if_every_row_does_and_needs_no_correction():
    rng = np.random.default_rng(1)
    levels = {"dense": 10.0, "soft-big": 9.0, "task-big": 9.9, "uniform-big": 12.0}
    runs = [
        run(cell("crl", GAMES, name, seed), level + 0.1 * rng.normal())
        for seed in range(5)
        for name, level in levels.items()
    ]

    def as_good_as(*names):
        contrasts = tuple(
            contrast(
                "not_greater",
                measure="final",
                over="tasks",
                plus=(Selector(architecture=name),),
                smallest_effect=0.5,
            )
            for name in names
        )
        claim = Claim(name="c", text="text", contrasts=contrasts, needs="all")
        return judge_claims(Claims(claims=(claim,)), runs, References(runs, RANDOM))[0]

    both = as_good_as("soft-big", "task-big")
    assert both.verdict == both.verdict_by_t == "supported"
    assert [row.p_adjusted for row in both.rows] == [row.estimate.p_greater for row in both.rows]
    assert as_good_as("soft-big", "uniform-big").verdict == "contradicted"
    # A network that wasn't run can't be passed over.
    assert as_good_as("soft-big", "random-big").verdict == "undecided"
    # But one that is better speaks against it all the same.
    assert as_good_as("uniform-big", "random-big").verdict == "contradicted"


def test_a_claim_that_needs_all_needs_every_task_that_its_measure_is_of():
    def runs(random_level):
        return [
            run(cell("crl", order, name, seed), level)
            for seed in range(5)
            for order in (GAMES, GAMES[::-1])
            for name, level in {"dense": random_level, "soft-big": 10.0}.items()
        ]

    def verdict(made, random):
        better = contrast(
            plus=(Selector(architecture="soft-big"),),
            minus=(Selector(architecture="dense"),),
            smallest_effect=0.1,
        )
        claim = Claim(name="c", text="text", contrasts=(better,), needs="all")
        return judge_claims(Claims(claims=(claim,)), made, References(made, random))[0]

    whole = verdict(runs(5.0), RANDOM)
    assert (whole.verdict, len(whole.rows)) == ("supported", 2)
    # Dense from scratch is no better than random on one task, which so has no ratio.
    part = verdict(runs(5.0), {**RANDOM, "Breakout": 50.0})
    assert (part.verdict, len(part.rows)) == ("undecided", 1)


def test_a_claim_that_needs_something_else_is_refused():
    with pytest.raises(ValueError, match="`needs` must be 'any' or 'all', got 'most'"):
        Claim(name="c", text="text", contrasts=(), needs="most")
