"""Figures say what the folder says, and errors say what a folder lacks."""

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.cbook import is_math_text
from stable_baselines3 import PPO

from sb3_moe.watching import figures
from sb3_moe.watching.figures import look_of

NAMES = np.array(["Breakout", "Asterix"])
STEPS = np.array([0, 50_000, 100_000, 150_000, 200_000])
SCORE = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [3.0, 2.0], [2.0, 3.0]])
GATES = np.linspace(0.1, 0.5, 5 * 2 * 3).reshape(5, 2, 3)
DORMANT = np.array([0.0, 0.1, np.nan, 0.3, 0.4])


def write(folder, score=SCORE, names=NAMES, trained=(0, 0, 0, 1, 1), **diagnostics):
    """Write what a run measured."""
    given = diagnostics or {
        "dormant/pi.0": DORMANT,
        "dormant/vf.0": DORMANT / 2,
        "gates/pi.middle": GATES,
    }
    scores = {"score": score, "steps": STEPS, "trained": np.array(trained), "task_names": names}
    np.savez(folder / "scores.npz", **scores)
    np.savez(folder / "diagnostics.npz", steps=STEPS, task_names=names, **given)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_learning_curves_show_every_task_its_blocks_and_the_random_level(folder):
    first, second = figures.draw_learning_curves(folder, random={"Breakout": 0.5}).axes
    assert first.get_title(loc="left") == "Breakout"
    np.testing.assert_array_equal(first.lines[0].get_ydata(), SCORE[:, 0])
    assert [p.get_x() for p in first.patches] == [0]
    assert [p.get_x() for p in second.patches] == [100_000]
    assert first.get_legend_handles_labels()[1] == ["random policy"]
    assert first.lines[1].get_ydata()[0] == 0.5
    assert len(second.lines) == 1
    assert second.get_xlabel() == "environment steps of all tasks"


@pytest.mark.parametrize(
    ("score", "written", "shown"),
    [
        (SCORE, ["4.00", "1.00", "2.00", "3.00"], [[1, 1 / 3], [0.5, 1]]),
        # Small returns keep their digits beside those in the hundreds.
        (SCORE * [0.1, 100.0], ["0.400", "100.0", "0.200", "300.0"], [[1, 1 / 3], [0.5, 1]]),
        # Below zero the worst return is the origin.
        (SCORE - 4.0, ["0.00", "-3.00", "-2.00", "-1.00"], [[1, 0], [0.5, 1]]),
    ],
)
def test_the_transfer_matrix_holds_returns_at_the_ends_of_blocks(tmp_path, score, written, shown):
    axes = figures.draw_transfer(write(tmp_path, score)).axes[0]
    assert texts(axes) == written
    np.testing.assert_allclose(axes.images[0].get_array(), shown)
    assert axes.get_yticklabels()[0].get_text() == "Breakout, to 100,000"


def test_dormant_neurons_are_drawn_where_they_were_measured(folder):
    axes = figures.draw_dormant(folder).axes[0]
    assert [line.get_label() for line in axes.lines[:2]] == ["pi.0", "vf.0"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), STEPS[[0, 1, 3, 4]])
    assert axes.lines[2].get_xdata()[0] == 100_000  # where the task changed


def test_names_are_drawn_as_they_are(tmp_path):
    write(tmp_path, names=np.array(["$x_$", "_y"]))
    assert len(figures.save_figures(tmp_path, formats=("svg",))) == 5
    title = figures.draw_learning_curves(tmp_path).axes[0].get_title(loc="left")
    assert not is_math_text(title)
    assert title.replace("\\$", "$") == "$x_$"
    write(tmp_path, **{"dormant/_a": DORMANT, "dormant/$b$": DORMANT})
    labels = [text.get_text() for text in figures.draw_dormant(tmp_path).legends[0].get_texts()]
    assert [label.strip("\u200b") for label in labels] == ["_a", r"\$b\$"]


def test_gates_are_drawn_over_time_and_at_the_end(folder):
    figure = figures.draw_gates_over_time(folder, "pi.middle")
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["Breakout", "Asterix"]
    drawn = figure.axes[1].collections[0].get_array()
    np.testing.assert_array_equal(drawn.reshape(3, 5), GATES[:, 1].T)
    assert figure.axes[0].get_yticks().tolist() == [0, 1, 2]
    last = figures.draw_last_gates(folder).axes[0]
    assert texts(last) == [f"{gate:.2f}" for gate in GATES[-1].ravel()]


def test_a_run_of_all_tasks_at_once_has_no_transfer_and_what_was_not_measured_is_not_drawn(
    tmp_path,
):
    write(tmp_path, trained=[-1] * 5, **{"gates/pi.middle": -GATES})
    written = figures.save_figures(tmp_path, formats=("svg",))
    assert [path.stem.partition("-")[0] for path in written] == ["learning_curves", "gates", "last"]
    assert figures.draw_learning_curves(tmp_path).get_suptitle() == ""
    # Gates of both signs have a color of their own at 0.
    assert figures.draw_last_gates(tmp_path).axes[0].images[0].get_clim() == (-0.5, 0.5)


@pytest.mark.parametrize("names", [[f"layer.{k}" * 4 for k in range(24)], ["a", "b" * 60]])
def test_a_legend_is_whole_and_leaves_the_axes_free(names, tmp_path):
    write(tmp_path, **{f"dormant/{name}": np.zeros(5) for name in names})
    figure = figures.draw_dormant(tmp_path)
    figure.draw_without_rendering()
    legend = figure.legends[0]
    extent, inside = legend.get_window_extent(), figure.bbox.padded(1)
    assert inside.containsy(extent.y0)
    assert inside.containsy(extent.y1)
    assert extent.y0 >= figure.axes[0].get_window_extent().y1
    assert figure.axes[0].get_window_extent().height > 2 * figure.dpi


def test_six_networks_share_a_panel_and_each_has_a_look_of_its_own():
    assert len({tuple(look_of(k).values()) for k in range(56)}) == 56
    names = [f"network {k}" for k in range(10)]
    assert figures.into_panels(names) == [names[:5], names[5:]]
    assert figures.into_panels(names[:6]) == [names[:6]]


def test_everything_a_folder_has_is_saved_alike_each_time(folder):
    names = ["dormant", "gates-pi.middle", "last-gates-pi.middle", "learning_curves", "transfer"]
    written = figures.save_figures(folder, formats=("svg",))
    assert sorted(written) == [folder / "figures" / f"{name}.svg" for name in names]
    assert not Gcf.figs  # nothing is left in pyplot's global state
    before = {path.name: path.read_bytes() for path in written}
    (folder / "scores.npz").unlink()
    again = figures.save_figures(folder, folder / "again", formats=("svg",))
    assert {path.stem for path in again} == {*names[:3]}
    last = "last-gates-pi.middle.svg"
    assert (folder / "again" / last).read_bytes() == before[last]


def test_an_empty_folder_says_which_call_fills_it(tmp_path):
    with pytest.raises(ValueError, match=r"no scores\.npz; train with MultiTaskEvalCallback"):
        figures.save_figures(tmp_path)
    with pytest.raises(ValueError, match=r"no diagnostics\.npz; train with PlasticityCallback"):
        figures.draw_last_gates(tmp_path)


def test_gates_that_are_not_there_are_named_with_what_is(folder):
    with pytest.raises(ValueError, match=r"must be one of \['pi.middle'\], got 'vf.middle'"):
        figures.draw_gates_over_time(folder, "vf.middle")
    write(folder, **{"dormant/pi.0": DORMANT})
    with pytest.raises(ValueError, match=r"has no gates; train with RoutingCallback\(log_path"):
        figures.draw_last_gates(folder)


def test_an_agents_routing_is_drawn_in_one_call():
    options = {"router": "uniform"}
    model = PPO("MoeMlpPolicy", "CartPole-v1", seed=0, policy_kwargs=options, n_steps=64)
    axes = figures.draw_routing(model, max_steps=3).axes[0]
    assert texts(axes) == ["0.25"] * 4
    assert axes.get_title() == "Experts of pi.middle"
    for mixture, known in (("qf", r"\['pi.middle', 'vf.middle'\], got 'qf'"), (None, r"\[\]")):
        if mixture is None:
            model = PPO("MlpPolicy", "CartPole-v1", n_steps=64)
        with pytest.raises(ValueError, match=f"`mixture` must be one of {known}"):
            figures.draw_routing(model, mixture=mixture, max_steps=3)
