"""Figures of a study have the lines, bands and names that its results have."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_up_study import GAMES, planned, run

from sb3_moe.study.figures import draw_curves, draw_experts, expert_weights
from sb3_moe.study.judging import t_interval
from sb3_moe.study.results import Results, as_table

RANDOM = dict.fromkeys(GAMES, 1.0)


def results(runs, random=RANDOM):
    """Give the results of runs, as of a study that has these networks."""
    names = dict.fromkeys(each.config.architecture.name for each in runs)
    the_study = SimpleNamespace(networks=list(names))
    table = as_table([each.config for each in runs], runs, random)
    return Results(the_study, runs, random, table)


def titles(figure):
    return [" ".join(ax.get_title().split()) for ax in figure.axes]


def test_a_line_is_the_mean_over_seeds_and_its_band_students_interval():
    levels = [6.0, 8.0, 13.0]
    runs = [run(planned("mtrl", seed=seed), level) for seed, level in enumerate(levels)]
    figure = draw_curves(results(runs), "return")
    legend, ax = figure.legends[0], figure.axes[0]
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "random policy"]
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(9.0)
    assert ax.lines[0].get_xdata()[-1] == runs[0].config.total_steps
    ends = ax.collections[0].get_paths()[0].vertices[:, 1]
    low, high = t_interval(np.array(levels))
    assert (ends.min(), ends.max()) == pytest.approx((low, high))
    # The axis is as high as the curves, whatever the interval of few seeds is.
    assert 13.0 < ax.get_ylim()[1] < 15.0 < high


def test_curves_end_where_the_first_seed_does_and_skip_steps_that_one_lacks():
    whole, short = run(planned("mtrl")), run(planned("mtrl", seed=1))
    kept = [0, 2, 3, 4]
    cut = replace(short, scores={name: values[kept] for name, values in short.scores.items()})
    (line, _) = draw_curves(results([whole, cut]), "return").axes[0].lines
    assert line.get_xdata().tolist() == whole.steps[kept].tolist()


def test_each_way_to_mix_tasks_has_a_panel_for_each_task_shaded_while_it_is_trained():
    runs = [run(planned("mtrl")), run(planned("crl", GAMES)), run(planned("crl", GAMES[::-1]))]
    figure = draw_curves(results(runs), "return")
    assert titles(figure)[:6] == [
        "mean over tasks, interleaved",
        "mean over tasks, one after the other: SpaceInvaders Breakout",
        "mean over tasks, one after the other: Breakout SpaceInvaders",
        "SpaceInvaders, interleaved",
        "Breakout, interleaved",
        "SpaceInvaders, one after the other: SpaceInvaders Breakout",
    ]
    *_, first, _, third = figure.axes[:6]
    assert len(first.patches) == 0
    (block,) = third.patches
    assert (block.get_x(), block.get_width()) == (0, runs[1].config.steps_per_task)
    of_one_task = [ax.get_ylim() for ax in (first, third)]
    assert of_one_task[0] == of_one_task[1]


def test_the_first_panel_is_the_mean_over_tasks_each_in_its_unit():
    found = results([run(planned("mtrl"), level) for level in (6.0,)])
    plain = draw_curves(found, "return").axes
    assert plain[0].lines[0].get_ydata().tolist() == plain[1].lines[0].get_ydata().tolist()
    first = draw_curves(found, "return", dict(zip(GAMES, (2.0, 3.0), strict=True))).axes[0]
    assert titles(first.figure)[0] == "mean over tasks in units, interleaved"
    assert first.lines[0].get_ydata()[-1] == pytest.approx(6.0 * (1 / 2 + 1 / 3) / 2)
    assert first.lines[1].get_ydata()[0] == pytest.approx((1 / 2 + 1 / 3) / 2)  # random


def test_seven_networks_have_two_panels_side_by_side_and_looks_that_are_given():
    runs = [run(planned("mtrl", name=f"net-{k}")) for k in range(7)]
    look = {"net-6": {"color": "#123456", "marker": "s"}}
    figure = draw_curves(results(runs), "return", looks=look)
    assert titles(figure)[:2] == [f"mean over tasks, interleaved ({k} of 2)" for k in (1, 2)]
    assert [len(ax.get_legend_handles_labels()[1]) for ax in figure.axes[:2]] == [5, 4]
    assert figure.axes[1].lines[2].get_color() == "#123456"


def test_runs_of_a_task_alone_are_drawn_for_that_task_only():
    runs = [run(planned("scratch", (game,))) for game in GAMES]
    assert titles(draw_curves(results(runs), "return")) == [f"{game}, alone" for game in GAMES]


def test_what_was_not_measured_has_no_figure():
    bare = replace(run(planned("mtrl")), diagnostics={})
    found = results([bare, run(planned("mtrl", name="soft-big"))])
    assert draw_curves(found, "success") is None
    (ax,) = draw_curves(found, "dormant").axes
    assert [line.get_label() for line in ax.lines] == ["soft-big"]
    assert draw_curves(results([bare]), "dormant") is None
    assert draw_experts(results([bare])) is None


def gated(*gates_NE, of=None):
    """A run whose router had these gates, one after the other."""
    made = run(of or planned("mtrl", name="soft-big"))
    gates = {"steps": np.arange(len(gates_NE)), "gates/pi.big": np.array(gates_NE, dtype=float)}
    return replace(made, diagnostics=gates)


def weights(*runs):
    return list(expert_weights(results(runs)).values())


def test_experts_are_matched_between_seeds_before_they_are_averaged():
    one = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]
    renamed = [[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]]
    np.testing.assert_allclose(weights(gated(one), gated(renamed)), [one])
    # One seed may have an expert more.
    joined = weights(gated([[0.7, 0.3], [0.2, 0.8]]), gated([[1.0], [1.0]]))
    np.testing.assert_allclose(joined, [[[0.35, 0.65], [0.1, 0.9]]])
    # A first task that all experts serve alike says nothing of which is which.
    alike = [[0.5, 0.5], [0.9, 0.1]], [[0.5, 0.5], [0.1, 0.9]]
    np.testing.assert_allclose(weights(*map(gated, alike)), [[[0.5, 0.5], [0.1, 0.9]]])
    # The sign of an expert is chance too.
    signed = [[2.0, -1.0], [0.0, 3.0]], [[1.0, -2.0], [-3.0, 0.0]]
    np.testing.assert_allclose(weights(*map(gated, signed)), [[[2.0, -1.0], [0.0, 3.0]]])


def test_of_many_experts_only_some_are_numbered():
    gates = np.random.default_rng(0).dirichlet(np.ones(30), size=(2, 2))
    ax = draw_experts(results([gated(*gates)])).axes[0]
    assert list(ax.get_xticks()) == list(range(0, 30, 3))


def test_the_last_gates_that_were_measured_count():
    gates, missing = [[0.7, 0.3], [0.2, 0.8]], np.full((2, 2), np.nan)
    np.testing.assert_allclose(weights(gated(missing, gates, missing)), [gates])
    assert not weights(gated(missing, missing))


def test_a_run_of_one_task_alone_has_a_row_of_that_task_only():
    gates = [[0.7, 0.3], [0.2, 0.8]]
    (found,) = weights(gated(gates, of=planned("scratch", (GAMES[1],), "soft-big")))
    np.testing.assert_allclose(found, [[0.8, 0.2]])
