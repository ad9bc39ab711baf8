from dataclasses import replace

import numpy as np
import pytest
from made_up_study import GAMES, ROLLOUT, cell, run

from sb3_moe.study.report.measures import (
    MEASURES,
    WHOLE,
    block_area,
    block_end,
    dormant,
    final,
    is_beside_scratch,
    measure,
)
from sb3_moe.study.report.references import References
from sb3_moe.study.report.runs import Run, on_shared_steps, with_silent_failures
from sb3_moe.study.spec.named import Named

D = 10 * ROLLOUT


def test_an_area_is_the_mean_return_by_hand():
    c = cell("mtrl")
    made = Run(
        c, {"steps": np.array([0, D, 2 * D]), "score": np.array([[0, 1], [4, 1], [6, 1]])}, {}
    )
    # Trapezoids: (0 + 4) / 2 and (4 + 6) / 2, averaged over two equal stretches.
    assert made.area(made.returns("SpaceInvaders"), (0, 2 * D)) == pytest.approx(3.5)
    assert made.area(made.returns("SpaceInvaders"), (0, D)) == pytest.approx(2.0)
    assert np.isnan(made.area(made.returns("SpaceInvaders"), (D, 3 * D)))


def test_blocks_follow_the_order_and_its_cycles():
    c = cell("crl", ("Breakout", "SpaceInvaders"), cycles=2)
    made = run(c)
    assert made.blocks("Breakout") == [(0, D), (2 * D, 3 * D)]
    assert made.blocks("SpaceInvaders") == [(D, 2 * D), (3 * D, 4 * D)]
    assert run(cell("mtrl")).blocks("Breakout") == [(0, 2 * D)]
    assert np.isnan(block_area(run(cell("scratch", ("Breakout",))), "SpaceInvaders"))


def test_the_end_of_a_block_is_its_last_tenth_and_the_end_of_the_run_its_last_evaluation():
    made = run(cell("crl"), level=10.0, random=1.0)
    assert block_end(made, "SpaceInvaders") == pytest.approx(10.0)
    assert block_area(made, "SpaceInvaders") == pytest.approx(5.5)
    assert final(made, "SpaceInvaders") == pytest.approx(10.0)


def test_plasticity_is_one_for_a_network_that_learns_as_if_fresh():
    first, second = cell("crl", GAMES), cell("crl", GAMES[::-1])
    runs = [run(first), run(second)]
    references = References(runs, dict.fromkeys(GAMES, 1.0))
    assert measure("plasticity", runs[0], references)["Breakout"] == pytest.approx(1.0)
    assert measure("plasticity", runs[1], references)["SpaceInvaders"] == pytest.approx(1.0)


def test_plasticity_of_the_first_game_is_not_a_number_since_it_is_its_own_reference():
    runs = [run(cell("crl", GAMES)), run(cell("crl", GAMES[::-1]))]
    references = References(runs, dict.fromkeys(GAMES, 1.0))
    assert np.isnan(measure("plasticity", runs[0], references)["SpaceInvaders"])


def test_plasticity_compares_with_the_same_network_and_seed():
    runs = [
        run(cell("crl", ("Breakout", "SpaceInvaders"), "dense", 0), level=11.0),
        run(cell("crl", ("Breakout", "SpaceInvaders"), "dense", 1), level=101.0),
        run(cell("crl", GAMES, "dense", 0), level=6.0),
    ]
    references = References(runs, dict.fromkeys(GAMES, 1.0))
    # Areas above random: (6 - 1) / 2 by (11 - 1) / 2.
    assert measure("plasticity", runs[2], references)["Breakout"] == pytest.approx(0.5)


def test_forgetting_is_what_a_game_lost_since_its_last_block_ended():
    forgot = run(cell("crl", GAMES))
    first, last = forgot.cell.games
    end = forgot.cell.steps_per_task
    forgot.scores["score"][forgot.steps == end, 0] = 9.0
    forgot.scores["score"][-1] = [2.0, 7.0]
    assert measure("forgetting", forgot, References([], {}))[first] == pytest.approx(7.0)
    assert measure("forgetting", forgot, References([], {}))[last] == 0.0
    assert np.isnan(measure("forgetting", run(cell("mtrl")), References([], {}))[first])


def test_a_run_that_ended_before_a_games_block_did_has_forgotten_nothing_that_is_known():
    whole = run(cell("crl", GAMES))
    early = {name: values[: len(values) // 4] for name, values in whole.scores.items()}
    made = Run(whole.cell, {**early, "successes": np.ones((len(early["steps"]), 2, 4))}, {})
    references = References([made], {})
    for name in ("forgetting", "success_forgetting", "area", "success_area"):
        assert np.isnan(list(measure(name, made, references).values())).all(), name


def test_a_return_that_is_no_number_spoils_that_games_area_and_no_other():
    made = run(cell("crl", GAMES))
    made.scores["score"][3, 0] = np.nan
    assert np.isnan(block_area(made, GAMES[0]))
    assert block_area(made, GAMES[1]) == pytest.approx(5.5)


def test_what_was_looked_at_at_fewer_steps_than_another_measure_is_averaged_over_those():
    made = run(cell("crl"))
    shares = np.full(len(made.steps), np.nan)
    shares[[0, 6, 12, 18]] = [0.1, 0.2, 0.3, 0.5]
    looked = Run(made.cell, made.scores, {**made.diagnostics, "dormant/pi.0": shares})
    assert dormant(looked) == pytest.approx(0.4)
    # The half of the run, not of the looks: gradients are first looked at after an update.
    late = np.where(made.steps > 0, np.arange(len(made.steps)), np.nan)
    whole = Run(made.cell, made.scores, {"steps": made.steps, "inactive/pi.0": late})
    assert measure("inactive", whole, References([], {}))[WHOLE] == np.arange(10, 21).mean()
    steps, values = looked.inside("dormant")
    assert steps.tolist() == made.steps[[0, 6, 12, 18]].tolist()
    assert values.tolist() == [0.1, 0.2, 0.3, 0.5]
    assert looked.inside("inactive") is None
    never = Run(made.cell, made.scores, {"steps": made.steps, "dormant/pi.0": np.nan * shares})
    assert never.inside("dormant") is None
    assert np.isnan(dormant(never))


def test_curves_are_stacked_at_the_steps_that_all_of_them_have():
    adaptive = (np.array([0, 10, 12, 20]), np.array([[0.0], [1.0], [7.0], [2.0]]))
    ended_early = (np.array([0, 10, 15]), np.array([[3.0], [4.0], [9.0]]))
    steps, values = on_shared_steps([adaptive, ended_early])
    assert steps.tolist() == [0, 10]
    assert values.tolist() == [[[0.0], [1.0]], [[3.0], [4.0]]]


def test_success_has_an_end_an_area_and_a_forgetting_by_hand():
    made = run(cell("crl", GAMES))
    first, last = made.cell.games
    end, steps = made.cell.steps_per_task, made.steps
    shares = np.zeros((len(steps), 2, 4))
    shares[(steps > 0) & (steps <= end), 0] = 1.0
    shares[-1] = [[1, 0, 0, 0], [1, 1, 0, 0]]
    told = Run(made.cell, {**made.scores, "successes": shares}, {})
    references = References([told], {})
    assert measure("success", told, references) == {first: 0.25, last: 0.5}
    assert measure("success_forgetting", told, references) == {first: 0.75, last: 0.0}
    # All but half a stretch of ten between evaluations.
    area = measure("success_area", told, references)[first]
    assert area == pytest.approx(1 - 0.5 * (steps[1] - steps[0]) / end)
    assert np.isnan(measure("success_forgetting", run(cell("mtrl")), references)[first])
    assert np.isnan(measure("success_area", made, references)[first])


def test_a_reference_no_better_than_random_gives_no_number():
    runs = [run(cell("crl", GAMES[::-1]), level=0.5), run(cell("crl", GAMES))]
    references = References(runs, dict.fromkeys(GAMES, 1.0))
    assert np.isnan(measure("plasticity", runs[1], references)["Breakout"])


@pytest.mark.parametrize("turn", [1, -1])
def test_a_run_from_scratch_is_the_reference_before_any_opener_in_whatever_order_they_come(turn):
    alone = run(cell("scratch", ("Breakout",)), level=21.0)
    openers = [run(cell("crl", GAMES[::-1])), run(cell("crl", ("Breakout",)), level=5.0)]
    references = References([alone, *openers][::turn], dict.fromkeys(GAMES, 1.0))
    assert references.scratch_area("dense", 0, "Breakout") == pytest.approx((1 + 21) / 2)
    assert references.normalised(11.0, 0, "Breakout") == pytest.approx(0.5)
    without = References(openers, dict.fromkeys(GAMES, 1.0))
    assert without.scratch_area("dense", 0, "Breakout") == pytest.approx(5.5)


def test_an_opener_is_no_reference_beside_runs_from_scratch_of_other_seeds():
    alone = run(cell("scratch", ("Breakout",)), level=21.0)
    opener = run(replace(cell("crl", ("Breakout",)), seed=1), level=5.0)
    references = References([alone, opener], dict.fromkeys(GAMES, 1.0))
    assert np.isnan(references.scratch_area("dense", 1, "Breakout"))


def test_which_run_is_a_reference_follows_from_the_study_and_not_from_what_is_done():
    alone = cell("scratch", ("Breakout",))
    first, second = cell("crl", GAMES[::-1]), cell("crl", ("Breakout",))
    runs, random = [run(second, level=5.0)], dict.fromkeys(GAMES, 1.0)

    def area(runs, cells):
        return References(runs, random, cells).scratch_area("dense", 0, "Breakout")

    # With the runs from scratch still to come, an opener is no reference for now either.
    assert np.isnan(area(runs, [alone, second]))
    assert area([*runs, run(alone, level=21.0)], [alone, second]) == pytest.approx(11.0)
    # Of two openers the study's first is, done or not.
    assert np.isnan(area(runs, [first, second]))
    assert area([*runs, run(first, level=9.0)], [first, second]) == pytest.approx(5.0)
    assert area(runs, [second, first]) == pytest.approx(3.0)


def test_a_run_that_was_stopped_in_its_first_block_is_no_reference():
    half = run(cell("crl", GAMES[::-1]))
    cut = Run(half.cell, {k: v[:5] for k, v in half.scores.items()}, {})
    references = References([cut], dict.fromkeys(GAMES, 1.0))
    assert np.isnan(references.scratch_area("dense", 0, "Breakout"))


def test_every_measure_gives_a_number_for_each_game_or_for_the_run():
    runs = [run(cell("crl", GAMES)), run(cell("crl", GAMES[::-1]))]
    references = References(runs, dict.fromkeys(GAMES, 1.0))
    for name in MEASURES:
        values = measure(name, runs[0], references)
        assert set(values) in ({WHOLE}, set(GAMES))
        # These tasks say nothing of success, and these runs nothing of gradients.
        assert np.isfinite(list(values.values())[-1]) != name.startswith(("success", "inactive"))
    assert measure("dormant", runs[0], references) == {WHOLE: pytest.approx(0.2)}
    assert measure("average_performance", runs[0], references) == {WHOLE: pytest.approx(1.0)}


def test_an_unknown_measure_is_refused_with_the_list():
    references = References([], {})
    with pytest.raises(ValueError, match=r"`measure` must be one of plasticity.*got 'luck'"):
        measure("luck", run(cell()), references)


def test_a_gain_is_a_later_blocks_area_less_the_same_networks_from_scratch():
    first, second = cell("crl", GAMES, cycles=2), cell("crl", GAMES[::-1], cycles=2)
    runs = [run(first, level=10.0), run(second, level=7.0)]
    references = References(runs, dict.fromkeys(GAMES, 1.0))
    # Areas are (1 + level) / 2; Breakout comes second in the first run, and opens the second.
    assert measure("gain", runs[0], references)["Breakout"] == pytest.approx(5.5 - 4.0)
    assert measure("gain", runs[1], references)["SpaceInvaders"] == pytest.approx(4.0 - 5.5)
    assert np.isnan(measure("gain", runs[0], references)["SpaceInvaders"])
    assert np.isnan(measure("gain", run(cell("mtrl")), references)["Breakout"])


def test_inactive_neurons_are_those_of_the_second_half_where_they_were_measured():
    layers = {
        "steps": np.arange(4),
        "inactive/pi.0": np.array([0.0, 0.0, 0.2, 0.4]),
        "inactive/vf.0": np.array([1.0, 1.0, 0.6, 0.8]),
        "inactive@0.1/pi.0": np.full(4, 9.0),
    }
    made = run(cell("crl"))
    measured = Run(made.cell, made.scores, layers)
    assert measure("inactive", measured, References([], {})) == {WHOLE: pytest.approx(0.5)}
    assert np.isnan(measure("inactive", made, References([], {}))[WHOLE])


def test_a_run_that_never_says_success_failed_where_another_run_says_it():
    silent, loud = run(cell("crl", GAMES)), run(cell("crl", GAMES))
    nothing = np.full((len(silent.steps), 2, 4), np.nan)
    some = nothing.copy()
    some[-1, 0, :3] = 1.0
    silent.scores["successes"], loud.scores["successes"] = nothing, some
    silent, loud = with_silent_failures([silent, loud])
    assert silent.success(GAMES[0]).tolist() == [0.0] * len(silent.steps)
    assert loud.success(GAMES[0]).tolist() == [0.0] * (len(loud.steps) - 1) + [0.75]
    for each in (silent, loud):  # of the other game no run says anything
        assert np.isnan(each.success(GAMES[1])).all()
    assert np.isnan(some[0]).all()  # what was read stays


def test_a_run_alone_has_an_end_of_the_task_that_it_trained_and_of_no_other():
    made = run(cell("scratch", ("Breakout",)))
    shares = np.ones((len(made.steps), 2, 4))
    told = Run(made.cell, {**made.scores, "successes": shares}, {})
    references = References([told], dict.fromkeys(GAMES, 1.0))
    for name, end in {"final": 10.0, "success": 1.0}.items():
        values = measure(name, told, references)
        assert values["Breakout"] == end
        assert np.isnan(values["SpaceInvaders"])
    assert np.isnan(measure("average_performance", told, references)[WHOLE])
    # What fine-tuning has left of a task that it never saw is another matter.
    assert np.isfinite(final(run(cell("crl", ("Breakout",))), "SpaceInvaders"))


def test_sixty_four_copies_are_shared_evenly_enough_by_three_games():
    # 22 of one game, where 21.33 are its share: 3% more steps than alone.
    games = (*GAMES, "Asterix")
    assert is_beside_scratch(cell("mtrl", games=games, n_envs=64), "Asterix")
    assert not is_beside_scratch(cell("mtrl", games=games, n_envs=16), "Asterix")


@pytest.mark.parametrize("name", ["plasticity", "relative_area"])
def test_what_is_put_beside_a_run_from_scratch_is_as_long_as_that_one(name):
    def value(made):
        alone = run(cell("scratch", ("Breakout",)))
        return measure(name, made, References([alone], dict.fromkeys(GAMES, 1.0)))["Breakout"]

    once, twice = (run(cell("crl", GAMES, cycles=cycles)) for cycles in (1, 2))
    assert value(once) == pytest.approx(1.0)
    later = twice.steps > twice.blocks("Breakout")[0][1]
    twice.scores["score"][later] = 100.0  # what was kept is no ability to learn
    assert value(twice) == pytest.approx(1.0)
    assert np.isfinite(value(run(cell("mtrl"))))
    assert np.isnan(value(run(cell("mtrl", cycles=2))))
    assert np.isnan(value(run(cell("mtrl", n_envs=5))))  # three of one task, two of the other
    assert np.isnan(value(run(cell("schedule", (), schedule=Named(name="Interleave")))))
