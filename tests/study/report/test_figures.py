import dataclasses
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from made_up_study import GAMES, cell, run
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sb3_moe.study.report.claims import Claim, Claims, Contrast, Selector
from sb3_moe.study.report.figures import (
    differences,
    expert_panels,
    expert_weights,
    learning_curves,
)
from sb3_moe.study.report.judging import judge_claims
from sb3_moe.study.report.references import References
from sb3_moe.study.spec.config import Architecture

LONG = "LongNames/Some-task-whose-name-is-longer-than-any-panel-of-a-picture-is-wide-v0"


def gated(gates_NE, router="soft", of=None):
    """A run whose router ends with these gates, or has these (K, N, E)."""
    architecture = Architecture(name=f"{router}-big", policy_kwargs={"router": router})
    made = run(dataclasses.replace(of or cell("mtrl"), architecture=architecture))
    gates = np.array(gates_NE)
    gates_KNE = gates if gates.ndim == 3 else gates[None]
    return dataclasses.replace(made, diagnostics={"gates/pi.big": gates_KNE})


def test_experts_are_matched_between_seeds_before_they_are_averaged():
    one = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]
    renamed = [[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]]
    ((_, games, weights),) = expert_panels([gated(one), gated(renamed)])
    assert games == GAMES
    np.testing.assert_allclose(weights, one)


def test_a_seed_in_which_an_expert_joined_is_averaged_with_one_in_which_none_did():
    ((*_, weights),) = expert_panels([gated([[0.7, 0.3], [0.2, 0.8]]), gated([[1.0], [1.0]])])
    np.testing.assert_allclose(weights, [[0.85, 0.15], [0.6, 0.4]])


def test_routers_that_are_not_learned_are_not_drawn():
    gates = [[1.0, 0.0], [0.0, 1.0]]
    assert expert_weights([gated(gates, "task"), gated(gates, "uniform")]) is None
    assert expert_weights([gated(gates, "top_k")]) is not None


def test_experts_whose_weights_have_both_signs_are_sorted_by_size_and_coloured_by_sign():
    made = gated([[0.3, -2.0, 0.5], [1.0, 0.0, -1.5]])
    ((*_, weights),) = expert_panels([made])
    np.testing.assert_allclose(weights, [[2.0, 0.5, 0.3], [0.0, -1.5, 1.0]])
    image = expert_weights([made]).axes[0].images[0]
    assert (image.get_clim(), image.get_cmap().name) == ((-2.0, 2.0), "PuOr_r")
    shares = expert_weights([gated([[0.7, 0.3], [0.2, 0.8]])]).axes[0].images[0]
    assert (shares.get_clim(), shares.get_cmap().name) == ((0.0, 0.8), "cividis")


def test_experts_that_differ_in_their_sign_alone_are_averaged_as_one():
    one, turned = [[3.0, 0.5], [2.0, -1.0]], [[-3.0, 0.5], [-2.0, -1.0]]
    ((*_, weights),) = expert_panels([gated(one), gated(turned)])
    np.testing.assert_allclose(weights, one)
    label = " ".join(expert_weights([gated(one)]).axes[0].get_xlabel().split())
    assert label.endswith("weight for SpaceInvaders, which is turned above 0")


def test_the_last_gates_that_were_measured_count_whatever_else_was_measured_after():
    gates, missing = [[0.7, 0.3], [0.2, 0.8]], np.full((2, 2), np.nan)
    ((*_, weights),) = expert_panels([gated([missing, gates, missing])])
    np.testing.assert_allclose(weights, gates)
    assert not expert_panels([gated([missing, missing])])


def test_a_run_of_one_game_alone_has_a_row_of_that_game_only():
    gates = [[0.7, 0.3], [0.2, 0.8]]
    made = [gated(gates, of=cell("scratch", (game,))) for game in GAMES]
    panels = expert_panels([gated(gates), *made])
    assert [games for _, games, _ in panels] == [GAMES, GAMES[:1], GAMES[1:]]
    np.testing.assert_allclose(panels[2].weights_NE, [[0.8, 0.2]])
    axes = expert_weights([gated(gates), *made]).axes
    assert [labels(ax) for ax in axes[:3]] == [[*GAMES], [GAMES[0]], [GAMES[1]]]


@pytest.mark.parametrize(("experts", "numbers"), [(3, 6), (12, 24), (13, 0), (64, 0)])
def test_weights_are_written_where_there_is_room_and_experts_are_numbered_from_0(experts, numbers):
    figure = expert_weights([gated(np.full((2, experts), 1 / experts))])
    FigureCanvasAgg(figure).draw()
    texts = figure.axes[0].texts
    assert len(texts) == numbers
    boxes = sorted(text.get_window_extent().extents.tolist() for text in texts[: numbers // 2])
    assert all(left[2] < right[0] for left, right in pairwise(boxes))
    ticks = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()]
    assert figure.axes[0].get_xticks()[0] == 0
    assert all(left.x1 < right.x0 for left, right in pairwise(ticks))


def judged(*contrasts):
    """Judge a claim on runs of three networks, each better than the one before it."""
    names = ("dense", "soft-big", "task-big")
    runs = [
        run(cell("crl", GAMES, name, seed), 10.0 + k + 0.1 * seed)
        for k, name in enumerate(names)
        for seed in range(5)
    ]
    made = [
        Contrast(
            measure=measure,
            plus=(Selector(architecture=plus),),
            minus=(Selector(architecture="dense"),),
            expects="greater",
            smallest_effect=0.5,
            over="tasks",
        )
        for plus, measure in contrasts
    ]
    claims = Claims(claims=(Claim(name="better", text="t", contrasts=tuple(made)),))
    return judge_claims(claims, runs, References(runs, dict.fromkeys(GAMES, 1.0)))


def labels(ax):
    return [" ".join(label.get_text().split()) for label in ax.get_yticklabels()]


def test_differences_of_one_claim_can_be_told_apart():
    (ax,) = differences(judged(("soft-big", "final"), ("task-big", "final"))).axes
    assert labels(ax) == [
        "better: SoftMoE-Big - Dense, all tasks",
        "better: Task-Big - Dense, all tasks",
    ]
    (ax,) = differences(judged(("soft-big", "final"))).axes
    assert labels(ax) == ["better: all tasks"]


def test_differences_in_other_measures_have_an_axis_of_their_own():
    found = judged(("soft-big", "final"), ("soft-big", "dormant"), ("task-big", "final"))
    first, second = differences(found).axes
    assert labels(first) == [
        "better: SoftMoE-Big - Dense, final, all tasks",
        "better: Task-Big - Dense, final, all tasks",
    ]
    assert labels(second) == ["better: SoftMoE-Big - Dense, dormant, all tasks"]
    assert "difference in final" in first.get_xlabel()
    assert "difference in dormant" in second.get_xlabel()


@pytest.mark.parametrize("effect", [0.5, 0.001, 1e-5])
def test_ticks_of_differences_can_be_read_however_small_these_are(effect):
    (finding,) = judged(("soft-big", "final"))
    small = finding.rows[0].estimate._replace(mean=effect, low=-0.4 * effect, high=1.3 * effect)
    contrast = dataclasses.replace(finding.rows[0].contrast, smallest_effect=effect)
    row = finding.rows[0]._replace(estimate=small, contrast=contrast)
    (ax,) = (figure := differences([finding._replace(rows=[row])])).axes
    FigureCanvasAgg(figure).draw()
    ticks = [tick.get_window_extent() for tick in ax.get_xticklabels()]
    assert all(left.x1 + 3 < right.x0 for left, right in pairwise(ticks))
    assert "0" in [tick.get_text() for tick in ax.get_xticklabels()]


def test_names_that_are_wider_than_a_panel_or_the_figure_are_wrapped():
    gymnasium.register(LONG, entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    name = LONG.partition("/")[2]
    game = cell("scratch", (LONG,), name, games=(LONG,))
    figure = learning_curves([run(game)], {LONG: 1.0})
    FigureCanvasAgg(figure).draw()
    gymnasium.registry.pop(LONG)
    legend = figure.legends[0].get_window_extent()
    named = figure.axes[0].title.get_window_extent()
    for box in (legend, named):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
    assert legend.y1 < figure.axes[0].xaxis.label.get_window_extent().y0
    assert figure.axes[0].get_window_extent().height > figure.dpi


@pytest.mark.parametrize("count", [1, 8, 18])
def test_the_legend_is_no_wider_than_the_figure(count):
    names = [f"dense-matched-{k}" for k in range(count)]
    figure = learning_curves([run(cell("mtrl", name=name)) for name in names], {})
    FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert len(figure.legends[0].get_texts()) == count


def test_runs_of_a_game_alone_share_a_row_in_which_each_game_has_its_own():
    made = [run(cell("mtrl")), *(run(cell("scratch", (game,))) for game in GAMES)]
    axes = learning_curves(made, {}).axes
    assert len(axes) == 2 * len(GAMES)
    assert [len(ax.lines) for ax in axes] == [1] * 4
    (alone,) = axes[2].lines
    assert alone.get_ydata().max() == 10.0  # trained, where the other run stays at random
    # A game whose run isn't done has a panel without a line.
    assert [len(ax.lines) for ax in learning_curves(made[:2], {}).axes] == [1, 1, 1, 0]


EIGHT = ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"]
EIGHT += ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"]


@pytest.mark.parametrize(
    ("count", "columns", "lines"), [(2, 2, 1), (4, 4, 1), (6, 4, 2), (8, 4, 2)]
)
def test_curves_of_many_games_wrap_at_four_side_by_side(count, columns, lines):
    games = tuple(EIGHT[:count])
    made = [
        run(dataclasses.replace(cell("crl"), games=games, order=order))
        for order in (games, games[::-1])
    ]
    figure = learning_curves(made, {})
    FigureCanvasAgg(figure).draw()
    panels = figure.axes
    assert len(panels) == 2 * count
    lefts = {round(ax.get_position().x0, 3) for ax in panels}
    tops = {round(ax.get_position().y1, 3) for ax in panels}
    assert len(lefts) == columns
    assert len(tops) == 2 * lines
    assert figure.get_figwidth() <= 3.4 * 4
    titles = [ax.get_title() for ax in panels]
    assert titles == [*games, *(games if lines > 1 else [""] * count)]
    named = [ax for ax in panels if "steps" in ax.get_xlabel()]
    assert len(named) == columns
    for first, second in zip(panels[:count], panels[count:], strict=True):
        assert first.get_ylim() == second.get_ylim()
        assert first.get_shared_y_axes().joined(first, second)
