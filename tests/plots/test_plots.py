"""Pictures say what the folder says, and errors say what a folder lacks."""

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.cbook import is_math_text
from stable_baselines3 import PPO

from sb3_moe import plots
from sb3_moe.plots.style import short

NAMES = np.array(["Breakout", "Asterix"])
STEPS = np.array([0, 50_000, 100_000, 150_000, 200_000])
SCORE = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [3.0, 2.0], [2.0, 3.0]])
GATES = np.linspace(0.1, 0.5, 5 * 2 * 3).reshape(5, 2, 3)


@pytest.fixture
def folder(tmp_path):
    trained = [0, 0, 0, 1, 1]
    np.savez(tmp_path / "scores.npz", score=SCORE, steps=STEPS, trained=trained, task_names=NAMES)
    dormant = np.array([0.0, 0.1, np.nan, 0.3, 0.4])
    saved = {"dormant/pi.0": dormant, "dormant/vf.0": dormant / 2, "gates/pi.middle": GATES}
    np.savez(tmp_path / "diagnostics.npz", steps=STEPS, task_names=NAMES, **saved)
    return tmp_path


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_learning_curves_show_every_task_its_blocks_and_the_random_level(folder):
    figure = plots.draw_learning_curves(folder, random={"Breakout": 0.5})
    first, second = figure.axes
    assert first.get_title(loc="left") == "Breakout"
    np.testing.assert_array_equal(first.lines[0].get_ydata(), SCORE[:, 0])
    assert [p.get_x() for p in first.patches] == [0]
    assert [p.get_x() for p in second.patches] == [100_000]
    assert texts(first) == ["random"]
    assert texts(second) == []


def test_the_transfer_matrix_holds_returns_at_the_ends_of_blocks(folder):
    axes = plots.draw_transfer(folder).axes[0]
    assert texts(axes) == ["4.00", "1.00", "2.00", "3.00"]
    assert axes.get_yticklabels()[0].get_text() == "Breakout, to 100k"


def with_score(folder, score):
    with np.load(folder / "scores.npz") as saved:
        changed = dict(saved) | {"score": score}
    np.savez(folder / "scores.npz", **changed)


def test_returns_below_1_keep_their_digits_beside_those_in_the_hundreds(folder):
    with_score(folder, SCORE * [0.1, 100.0])
    assert texts(plots.draw_transfer(folder).axes[0]) == ["0.400", "100.0", "0.200", "300.0"]


def test_the_forgetting_matrix_holds_what_was_lost_relative_to_the_largest_return(folder):
    assert texts(plots.draw_forgetting(folder).axes[0]) == ["-1.00", "+0.00", "+0.50", "-0.67"]


def test_what_was_lost_beyond_the_largest_return_has_a_colour_of_its_own(folder):
    # From 4 before its second block to -4 after it: twice the largest return in size.
    with_score(folder, np.where(STEPS[:, None] == 200_000, [-4.0, 3.0], SCORE))
    axes = plots.draw_forgetting(folder).axes[0]
    assert texts(axes)[2] == "+2.00"
    assert axes.images[0].get_clim() == (-2.0, 2.0)


def test_what_is_no_number_is_a_dash_that_can_be_read(folder):
    with_score(folder, SCORE * [1.0, 0.0])  # a task that never scored
    axes = plots.draw_forgetting(folder).axes[0]
    assert texts(axes) == ["-1.00", "-", "+0.50", "-"]
    assert [text.get_color() for text in axes.texts if text.get_text() == "-"] == ["k", "k"]


def test_dormant_neurons_are_drawn_where_they_were_measured(folder):
    axes = plots.draw_dormant(folder).axes[0]
    assert [line.get_label() for line in axes.lines[:2]] == ["pi.0", "vf.0"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), STEPS[[0, 1, 3, 4]])
    assert axes.lines[2].get_xdata()[0] == 100_000


def test_transfer_is_brightest_at_the_best_return_also_below_zero(folder):
    with_score(folder, SCORE - 4.0)
    shown = plots.draw_transfer(folder).axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, [[1.0, 0.0], [0.5, 1.0]])


def test_names_are_drawn_as_they_are(folder):
    for name in ("scores.npz", "diagnostics.npz"):
        with np.load(folder / name) as saved:
            renamed = dict(saved) | {"task_names": np.array(["$x_$", "_y"])}
        np.savez(folder / name, **renamed)
    assert len(plots.save_figures(folder)) == 6
    title = plots.draw_learning_curves(folder).axes[0].get_title(loc="left")
    assert not is_math_text(title)
    assert title.replace("\\$", "$") == "$x_$"


def test_a_line_whose_name_begins_with_an_underscore_is_in_the_legend():
    figure = plots.draw_performance_profile({"_a": [[0.0, 1.0]], "$b$": [[2.0, 3.0]]}, [0.5])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.strip("\u200b") for label in labels] == ["_a", r"\$b\$"]


def test_lines_differ_in_style_too(folder):
    first, second = plots.draw_dormant(folder).axes[0].lines[:2]
    assert first.get_linestyle() != second.get_linestyle()


def test_the_last_gates_are_written_into_the_map(folder):
    axes = plots.draw_last_gates(folder).axes[0]
    assert texts(axes) == [f"{gate:.2f}" for gate in GATES[-1].ravel()]


def test_gates_over_time_have_a_row_for_each_task(folder):
    figure = plots.draw_gates_over_time(folder, "pi.middle")
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    assert titles == ["Breakout", "Asterix"]
    drawn = figure.axes[1].collections[0].get_array()
    np.testing.assert_array_equal(drawn.reshape(3, 5), GATES[:, 1].T)


def test_a_profile_has_a_line_for_each_algorithm():
    axes = plots.draw_performance_profile({"a": [[0.0, 1.0]], "b": [[2.0, 3.0]]}, [0.5]).axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.5], [1.0]]


@pytest.mark.parametrize("scores", [{}, {"a": np.zeros((0, 2))}])
def test_a_profile_of_nothing_is_refused(scores):
    with pytest.raises(ValueError, match="`scores` must hold at least one score, got none"):
        plots.draw_performance_profile(scores)


def overlaps(figure, extents):
    """Say whether any of these lies upon the one before, or beyond the figure."""
    inside = figure.bbox.padded(1)
    return any(
        one.y0 < other.y1 and other.y0 < one.y1
        for one, other in zip(extents[1:], extents, strict=False)
    ) or any(not inside.containsx(x) for each in extents for x in (each.x0, each.x1))


@pytest.mark.parametrize("names", [[f"algorithm {k}" for k in range(15)], ["a", "b" * 60]])
def test_a_legend_beside_a_profile_is_whole_and_leaves_the_axes_free(names):
    figure = plots.draw_performance_profile({name: [[0.0, 1.0]] for name in names})
    figure.draw_without_rendering()
    legend = figure.legends[0]
    assert not overlaps(figure, [each.get_window_extent() for each in legend.get_texts()])
    assert figure.bbox.padded(1).containsy(legend.get_window_extent().y0)
    assert legend.get_window_extent().x0 >= figure.axes[0].get_window_extent().x1
    assert figure.axes[0].get_window_extent().width > 3 * figure.dpi


def test_layers_of_a_deep_network_are_all_in_the_legend(tmp_path):
    layers = {f"dormant/features_extractor.extractors.obs.{k}": np.zeros(5) for k in range(24)}
    np.savez(tmp_path / "diagnostics.npz", steps=STEPS, task_names=NAMES, **layers)
    figure = plots.draw_dormant(tmp_path)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.padded(1).containsy(legend.y0)
    assert figure.bbox.padded(1).containsy(legend.y1)
    assert figure.axes[0].get_window_extent().width > 3 * figure.dpi


@pytest.mark.parametrize(("experts", "numbers"), [(3, [0, 1, 2]), (24, [0, 4, 8, 12, 16, 20])])
def test_numbers_of_many_experts_do_not_overlap(tmp_path, experts, numbers):
    gates = np.full((5, 2, experts), 1 / experts)
    arrays = {"steps": STEPS, "task_names": NAMES, "gates/pi.middle": gates}
    np.savez(tmp_path / "diagnostics.npz", **arrays)
    figure = plots.draw_gates_over_time(tmp_path)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_yticks().tolist() == numbers
    assert not overlaps(figure, [each.get_window_extent() for each in axes.get_yticklabels()])


def test_a_profile_begins_at_the_lowest_score_where_one_is_below_zero():
    lines = plots.draw_performance_profile({"a": [[-2.0, 1.0]], "b": [[0.5, 3.0]]}).axes[0].lines
    assert [(x.get_xdata()[0], x.get_xdata()[-1]) for x in lines] == [(-2.0, 3.0)] * 2
    (line,) = plots.draw_performance_profile({"a": [[0.5, 3.0]]}).axes[0].lines
    assert line.get_xdata()[0] == 0.0


def test_everything_a_folder_has_is_saved(folder):
    names = {path.name for path in plots.save_figures(folder)}
    assert names == {
        "learning_curves.png",
        "transfer.png",
        "forgetting.png",
        "dormant.png",
        "gates-pi.middle.png",
        "last-gates-pi.middle.png",
    }
    assert all((folder / "figures" / name).stat().st_size > 1000 for name in names)


def test_figures_are_saved_in_every_format_and_alike_each_time(folder):
    first = plots.save_figures(folder, formats=("svg", "pdf"))
    assert {path.suffix for path in first} == {".svg", ".pdf"}
    assert len(first) == 12
    before = [path.read_bytes() for path in first]
    again = plots.save_figures(folder, formats=("svg", "pdf"))
    assert [path.read_bytes() for path in again] == before


@pytest.mark.parametrize("formats", [(), ("png", "gif")])
def test_an_unknown_format_is_refused_with_the_known_ones(folder, formats):
    with pytest.raises(ValueError, match=r"`formats` must be among png, svg, pdf, got"):
        plots.save_figures(folder, formats=formats)


def test_a_folder_with_diagnostics_alone_is_drawn_too(folder):
    (folder / "scores.npz").unlink()
    assert {path.stem for path in plots.save_figures(folder)} == {
        "dormant",
        "gates-pi.middle",
        "last-gates-pi.middle",
    }


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (plots.draw_learning_curves, r"no scores\.npz; train with MultiTaskEvalCallback"),
        (plots.save_figures, r"no scores\.npz; train with MultiTaskEvalCallback"),
        (plots.draw_dormant, r"no diagnostics\.npz; train with PlasticityCallback"),
        (plots.draw_last_gates, r"no diagnostics\.npz; train with PlasticityCallback"),
    ],
)
def test_an_empty_folder_says_which_call_fills_it(tmp_path, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path)


def test_a_folder_without_gates_says_which_callback_measures_them(folder):
    np.savez(folder / "diagnostics.npz", steps=STEPS, task_names=NAMES)
    with pytest.raises(ValueError, match=r"has no gates; train with RoutingCallback\(log_path"):
        plots.draw_last_gates(folder)


def test_an_unknown_mixture_is_named_with_the_known_ones(folder):
    with pytest.raises(ValueError, match=r"must be one of \['pi.middle'\], got 'vf.middle'"):
        plots.draw_gates_over_time(folder, "vf.middle")


def test_interleaved_tasks_have_no_transfer_matrix(folder):
    np.savez(folder / "scores.npz", score=SCORE, steps=STEPS, trained=[-1] * 5, task_names=NAMES)
    with pytest.raises(ValueError, match="`blocks` must hold at least one block"):
        plots.draw_transfer(folder)
    assert "transfer" not in {path.stem for path in plots.save_figures(folder)}


def test_steps_are_written_short():
    steps = (0, 500, 98_304, 163_840, 999_936, 999_960, 1_200_000, 1.5e9)
    written = ["0", "500", "98.3k", "163.8k", "999.9k", "1M", "1.2M", "1.5G"]
    assert [short(n) for n in steps] == written


def test_drawing_leaves_no_figure_in_pyplots_global_state(folder):
    plots.save_figures(folder)
    assert not Gcf.figs


def test_values_against_something_have_a_line_or_a_dot_and_their_intervals():
    points = {
        "dense": [plots.Point(1, 5.0, 4.0, 6.0), plots.Point(8, 2.0, 1.0, 2.5)],
        "task_big": [plots.Point(8, 4.0, 3.0, 5.0)],
    }
    axes = plots.draw_against(points, "tasks", doubling=True).axes[0]
    assert axes.get_legend_handles_labels()[1] == ["dense", "task_big"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [5.0, 2.0])
    drawn = axes.collections[0].get_segments()
    np.testing.assert_array_equal([end for line in drawn for end in line[:, 1]], [4, 6, 1, 2.5])
    np.testing.assert_array_equal(axes.get_xticks(), [1, 8])


def test_nothing_or_nothing_above_zero_cannot_be_drawn_against_a_logarithm():
    with pytest.raises(ValueError, match="`points` must hold at least one point, got none"):
        plots.draw_against({"dense": []}, "tasks")
    for x in (0, np.nan, np.inf):
        message = f"`points` must lie above zero, at finite `x`, got {x}"
        with pytest.raises(ValueError, match=message):
            plots.draw_against({"dense": [plots.Point(x, 1.0, 1.0, 1.0)]}, "FLOPs a row")


def test_a_figure_shows_itself_in_a_notebook():
    figure = plots.draw_gates([[0.5, 0.5]], ["a"])
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("gates", "names", "message"),
    [
        (np.zeros((2, 0)), ["a", "b"], r"`gates_NE` must be .* not empty, got shape \(2, 0\)"),
        (np.zeros(2), ["a", "b"], r"`gates_NE` must be \(tasks, experts\).* got shape \(2,\)"),
        (
            np.zeros((2, 3)),
            ["a"],
            "`task_names` must be one for each row of `gates_NE`, 2, got 1",
        ),
    ],
)
def test_gates_without_rows_columns_or_names_are_refused(gates, names, message):
    with pytest.raises(ValueError, match=message):
        plots.draw_gates(gates, names)


def test_weights_that_are_rounded_to_zero_have_no_minus():
    assert texts(plots.draw_gates([[-0.001, -0.01, np.nan]], ["a"]).axes[0]) == [
        "0.00",
        "-0.01",
        "-",
    ]


def test_gates_of_a_network_that_diverged_are_dashes():
    assert texts(plots.draw_gates(np.full((1, 2), np.nan), ["a"]).axes[0]) == ["-", "-"]


@pytest.mark.parametrize("gates", [[[-0.5, -0.2], [-1.0, -0.1]], [[0.5, -0.2], [0.1, 0.0]]])
def test_weights_of_both_signs_have_colours_of_both(gates):
    image = plots.draw_gates(gates, ["a", "b"]).axes[0].images[0]
    size = np.abs(gates).max()
    assert image.get_clim() == (-size, size)


def test_an_agents_routing_is_drawn_in_one_call():
    model = PPO(
        "MoeMlpPolicy", "CartPole-v1", seed=0, policy_kwargs={"router": "uniform"}, n_steps=64
    )
    figure = plots.draw_routing(model, max_steps=3)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["0.25"] * 4
    assert figure.axes[0].get_title() == "Experts of pi.middle"
    assert plots.draw_routing(model, mixture="vf.middle", max_steps=3).axes[0].get_title() == (
        "Experts of vf.middle"
    )
    with pytest.raises(ValueError, match=r"`mixture` must be one of \['pi.middle', 'vf.middle'\]"):
        plots.draw_routing(model, mixture="qf", max_steps=3)
    with pytest.raises(ValueError, match="no mixture of experts whose routing could be drawn"):
        plots.draw_routing(PPO("MlpPolicy", "CartPole-v1", n_steps=64), max_steps=3)


def test_gates_of_an_expert_that_left_or_is_yet_to_come_leave_no_other_out(tmp_path):
    gates = np.array([[[0.3, 0.7, np.nan]], [[0.2, 0.3, 0.5]], [[0.6, 0.4, np.nan]]])
    arrays = {
        "steps": np.array([0, 10, 20]),
        "gates/pi.big": gates,
        "task_names": np.array(["one"]),
    }
    np.savez(tmp_path / "diagnostics.npz", **arrays)
    last = plots.draw_last_gates(tmp_path)
    assert [text.get_text() for text in last.axes[0].texts] == ["0.60", "0.40"]
    mesh = plots.draw_gates_over_time(tmp_path).axes[0].collections[0]
    assert np.ma.count(np.ma.masked_invalid(mesh.get_array())) == 7
