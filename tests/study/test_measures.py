import numpy as np
import pytest
from made_up_study import GAMES, ROLLOUT, planned, run, write_run

from sb3_moe.saving.files import write_npz
from sb3_moe.study.building import Named
from sb3_moe.study.folder import survey
from sb3_moe.study.results import (
    MEASURES,
    WHOLE,
    References,
    Run,
    block_end,
    final,
    first_area,
    read_runs,
)

D = 10 * ROLLOUT
RANDOM = dict.fromkeys(GAMES, 1.0)
NOTHING = References({}, {}, [])


def beside(runs, cells=None):
    cells = [run.config for run in runs] if cells is None else cells
    return References({run.config.name: run for run in runs}, RANDOM, cells)


def measure(name, made, references=NOTHING):
    """Give a measure of a run by task, for those that it is defined for."""
    of = MEASURES[name]
    return {task: of.value(made, task, references) for task in of.tasks(made.config)}


def test_an_area_is_the_mean_return_by_hand():
    scores = {"steps": np.array([0, D, 2 * D]), "score": np.array([[0, 1], [4, 1], [6, 1]])}
    made = Run(planned("mtrl"), scores)
    # Trapezoids: (0 + 4) / 2 and (4 + 6) / 2, averaged over two equal stretches.
    assert measure("area", made)["SpaceInvaders"] == pytest.approx(3.5)


def test_blocks_follow_the_order_and_its_cycles():
    c = planned("crl", ("Breakout", "SpaceInvaders"), cycles=2)
    made = run(c)
    assert made.blocks("Breakout") == [(0, D), (2 * D, 3 * D)]
    assert made.blocks("SpaceInvaders") == [(D, 2 * D), (3 * D, 4 * D)]
    assert run(planned("mtrl")).blocks("Breakout") == [(0, 2 * D)]


def test_the_end_of_a_block_is_its_last_tenth_and_the_end_of_the_run_its_last_evaluation():
    made = run(planned("crl"), level=10.0, random=1.0)
    assert block_end(made, "SpaceInvaders") == pytest.approx(10.0)
    assert measure("area", made)["SpaceInvaders"] == pytest.approx(5.5)
    assert final(made, "SpaceInvaders") == pytest.approx(10.0)


def test_plasticity_compares_with_the_same_network_and_seed():
    runs = [
        run(planned("crl", ("Breakout", "SpaceInvaders"), "dense", 0), level=11.0),
        run(planned("crl", ("Breakout", "SpaceInvaders"), "dense", 1), level=101.0),
        run(planned("crl", GAMES, "dense", 0), level=6.0),
    ]
    references = beside(runs)
    # Areas above random: (6 - 1) / 2 by (11 - 1) / 2.
    assert measure("plasticity", runs[2], references)["Breakout"] == pytest.approx(0.5)


def test_forgetting_is_what_a_game_lost_since_its_last_block_ended():
    forgot = run(planned("crl", GAMES))
    first, last = forgot.config.games
    end = forgot.config.steps_per_task
    forgot.scores["score"][forgot.steps == end, 0] = 9.0
    forgot.scores["score"][-1] = [2.0, 7.0]
    assert measure("forgetting", forgot)[first] == pytest.approx(7.0)
    assert measure("forgetting", forgot)[last] == 0.0
    assert measure("forgetting", run(planned("mtrl"))) == {}


def test_a_run_that_ended_before_a_games_block_did_has_forgotten_nothing_that_is_known():
    whole = run(planned("crl", GAMES))
    early = {name: values[: len(values) // 4] for name, values in whole.scores.items()}
    made = Run(whole.config, {**early, "successes": np.ones((len(early["steps"]), 2, 4))}, {})
    references = beside([made])
    for name in ("forgetting", "success_forgetting", "area", "success_area"):
        assert np.isnan(list(measure(name, made, references).values())).all(), name


def test_what_was_looked_at_at_fewer_steps_than_another_measure_is_averaged_over_those():
    made = run(planned("crl"))
    shares = np.full(len(made.steps), np.nan)
    shares[[0, 6, 12, 18]] = [0.1, 0.2, 0.3, 0.5]
    looked = Run(made.config, made.scores, {**made.diagnostics, "dormant/pi.0": shares})
    assert measure("dormant", looked)[WHOLE] == pytest.approx(0.4)
    # The half of the run, not of the looks: gradients are first looked at after an update.
    late = np.where(made.steps > 0, np.arange(len(made.steps)), np.nan)
    whole = Run(made.config, made.scores, {"steps": made.steps, "inactive/pi.0": late})
    assert measure("inactive", whole)[WHOLE] == np.arange(10, 21).mean()


def test_success_has_an_end_an_area_and_a_forgetting_by_hand():
    made = run(planned("crl", GAMES))
    first, last = made.config.games
    end, steps = made.config.steps_per_task, made.steps
    shares = np.zeros((len(steps), 2, 4))
    shares[(steps > 0) & (steps <= end), 0] = 1.0
    shares[-1] = [[1, 0, 0, 0], [1, 1, 0, 0]]
    told = Run(made.config, {**made.scores, "successes": shares}, {})
    references = beside([told])
    assert measure("success", told, references) == {first: 0.25, last: 0.5}
    assert measure("success_forgetting", told, references) == {first: 0.75, last: 0.0}
    # All but half a stretch of ten between evaluations.
    area = measure("success_area", told, references)[first]
    assert area == pytest.approx(1 - 0.5 * (steps[1] - steps[0]) / end)
    assert measure("success_forgetting", run(planned("mtrl")), references) == {}
    assert np.isnan(measure("success_area", made, references)[first])


def test_a_reference_no_better_than_random_gives_no_number():
    runs = [run(planned("crl", GAMES[::-1]), level=0.5), run(planned("crl", GAMES))]
    references = beside(runs)
    assert np.isnan(measure("plasticity", runs[1], references)["Breakout"])


def test_which_run_is_a_reference_follows_from_the_study_and_not_from_what_is_done():
    alone = planned("scratch", ("Breakout",))
    first, second = planned("crl", GAMES[::-1]), planned("crl", ("Breakout",))
    runs = [run(second, level=5.0)]

    def area(runs, cells):
        return first_area(beside(runs, cells).alone(runs[0], "Breakout"), "Breakout")

    # With the runs from scratch still to come, an opener is no reference for now either.
    assert np.isnan(area(runs, [alone, second]))
    assert area([*runs, run(alone, level=21.0)], [alone, second]) == pytest.approx(11.0)
    # Of two openers the study's first is, done or not.
    assert np.isnan(area(runs, [first, second]))
    assert area([*runs, run(first, level=9.0)], [first, second]) == pytest.approx(5.0)
    assert area(runs, [second, first]) == pytest.approx(3.0)


def test_every_measure_gives_a_number_for_each_task_that_it_is_defined_for():
    runs = [run(planned("crl", GAMES)), run(planned("crl", GAMES[::-1]))]
    for name in MEASURES:
        values = measure(name, runs[0], beside(runs))
        assert set(values) <= {WHOLE, *GAMES}
        # These tasks say nothing of success, and these runs nothing of gradients.
        assert np.isfinite(list(values.values())[-1]) != name.startswith(("success", "inactive"))
    assert measure("dormant", runs[0]) == {WHOLE: pytest.approx(0.2)}
    assert measure("average_performance", runs[0], beside(runs)) == {WHOLE: pytest.approx(1.0)}


def test_average_performance_is_beside_what_dense_has_after_its_first_block():
    runs = [run(planned("crl", order, cycles=2), level=11.0) for order in (GAMES, GAMES[::-1])]
    first = runs[0].steps == runs[0].config.steps_per_task
    for made, column in zip(runs, (0, 1), strict=True):
        made.scores["score"][first, column] = 21.0
    values = measure("average_performance", runs[0], beside(runs))
    assert values[WHOLE] == pytest.approx((11 - 1) / (21 - 1))


def test_a_gain_is_a_later_blocks_area_less_the_same_networks_from_scratch():
    first, second = planned("crl", GAMES, cycles=2), planned("crl", GAMES[::-1], cycles=2)
    runs = [run(first, level=10.0), run(second, level=7.0)]
    references = beside(runs)
    # Areas are (1 + level) / 2; Breakout comes second in the first run, and opens the second.
    assert measure("gain", runs[0], references)["Breakout"] == pytest.approx(5.5 - 4.0)
    assert measure("gain", runs[1], references)["SpaceInvaders"] == pytest.approx(4.0 - 5.5)
    assert "SpaceInvaders" not in measure("gain", runs[0], references)
    assert measure("gain", run(planned("mtrl")), references) == {}


def test_a_run_that_never_says_success_failed_where_another_run_says_it(tmp_path):
    nothing = np.full((len(run(planned()).steps), 2, 4), np.nan)
    some = nothing.copy()
    some[-1, 0, :3] = 1.0
    jobs = []
    for seed, said in enumerate((nothing, some)):
        (job,) = survey([planned(seed=seed)], tmp_path)
        write_run(job, 5.0)
        write_npz(job.folder.path / "scores.npz", {**job.folder.scores(), "successes": said})
        jobs.append(job)
    silent, loud = read_runs(jobs)
    assert silent.success[GAMES[0]].tolist() == [0.0] * len(silent.steps)
    assert loud.success[GAMES[0]].tolist() == [0.0] * (len(loud.steps) - 1) + [0.75]
    for each in (silent, loud):  # of the other game no run says anything
        assert np.isnan(each.success[GAMES[1]]).all()


def test_a_run_alone_has_an_end_of_the_task_that_it_trained_and_of_no_other():
    made = run(planned("scratch", ("Breakout",)))
    shares = np.ones((len(made.steps), 2, 4))
    told = Run(made.config, {**made.scores, "successes": shares}, {})
    references = beside([told])
    for name, end in {"final": 10.0, "success": 1.0}.items():
        values = measure(name, told, references)
        assert values == {"Breakout": end}
    assert np.isnan(measure("average_performance", told, references)[WHOLE])
    # What fine-tuning has left of a task that it never saw is another matter.
    assert np.isfinite(final(run(planned("crl", ("Breakout",))), "SpaceInvaders"))


@pytest.mark.parametrize("name", ["plasticity", "relative_area"])
def test_what_is_put_beside_a_run_from_scratch_is_as_long_as_that_one(name):
    def value(made):
        alone = run(planned("scratch", ("Breakout",)))
        return measure(name, made, beside([alone])).get("Breakout", np.nan)

    once, twice = (run(planned("crl", GAMES, cycles=cycles)) for cycles in (1, 2))
    assert value(once) == pytest.approx(1.0)
    later = twice.steps > twice.blocks("Breakout")[0][1]
    twice.scores["score"][later] = 100.0  # what was kept is no ability to learn
    assert value(twice) == pytest.approx(1.0)
    assert np.isfinite(value(run(planned("mtrl"))))
    assert np.isnan(value(run(planned("mtrl", cycles=2))))
    assert np.isnan(value(run(planned("mtrl", n_envs=5))))  # three of one task, two of the other
    assert np.isnan(value(run(planned("schedule", (), schedule=Named(name="Interleave")))))


def scheduled(trained):
    """A run in which a schedule chose tasks, as its evaluations recorded it."""
    config = planned("schedule", (), schedule=Named(name="Interleave"))
    made = run(config)
    return Run(config, {**made.scores, "trained": np.array(trained)})


def test_a_schedules_blocks_are_those_that_evaluations_recorded():
    made = scheduled([0] * 9 + [1] * 12)
    steps = made.steps
    assert made.blocks(GAMES[0]) == [(0, steps[8])]
    assert made.blocks(GAMES[1]) == [(steps[8], steps[20])]
    assert scheduled([-1] * 21).blocks(GAMES[0]) == [(0, made.config.total_steps)]
    assert scheduled([0] * 21).blocks(GAMES[1]) == []


def test_a_return_that_falls_while_a_schedule_trains_another_task_is_not_its_trainings_end():
    made = scheduled([0] * 9 + [1] * 12)
    made.scores["score"][:9, 0] = 10.0
    made.scores["score"][9:, 0] = 0.0  # below the random policy
    assert block_end(made, GAMES[0]) == 10.0
    assert np.isnan(block_end(scheduled([0] * 21), GAMES[1]))
