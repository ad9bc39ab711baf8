"""Figures of runs and agents: one function each, returning a matplotlib figure.

Shapes: K measurements, N tasks, E experts, M blocks of training, S seeds.
"""

# ruff: noqa: E402  what is missing is said before it is imported

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.layers.extras import require

# Before matplotlib is imported: this error names the extra that brings it.
require("sb3_moe.watching.figures", "matplotlib")

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_moe.measures import block_ends, load_scores
from sb3_moe.measures.statistics import decimals
from sb3_moe.saving.files import atomic, read_npz
from sb3_moe.watching.recording import watch

__all__ = [
    "draw_dormant",
    "draw_gates",
    "draw_gates_over_time",
    "draw_last_gates",
    "draw_learning_curves",
    "draw_routing",
    "draw_transfer",
    "load_diagnostics",
    "save_figure",
    "save_figures",
]

# Okabe and Ito's colors, which all readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<"
#: Most networks in one panel: more lines, with bands that overlap, can't be told apart.
MOST_LINES = 6
#: For screens, for pages, and for papers.
FORMATS = ("png", "svg", "pdf")
# Without date and software in the metadata, equal figures give equal bytes.
_METADATA = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
# Most expert numbers on the axis of one task's panel: there is no room for more.
_MOST_NUMBERED = 6
Array = npt.NDArray[np.float64]


def draw_learning_curves(folder: str | Path, random: Mapping[str, float] | None = None) -> Figure:
    """Draw the mean return of every task over training, with the blocks in which it was trained.

    :param folder: of a run with ``MultiTaskEvalCallback(log_path=folder)``
    :param random: return of a random agent by task, drawn as a dotted line
    :raises ValueError: if the folder has no scores
    """
    scores = load_scores(folder)
    figure, rows = _task_rows(scores.task_names, 1.5)
    for k, (name, axes) in enumerate(zip(scores.task_names, rows, strict=True)):
        color = COLORS[k % len(COLORS)]
        axes.plot(scores.steps, scores.score[:, k], color=color, marker=".")
        for block in scores.blocks:
            if block.task == k:
                axes.axvspan(block.start, block.end, color="0.9", zorder=0, linewidth=0)
        if random and name in random:
            axes.axhline(random[name], color="0.3", linestyle=":", label="random policy")
            axes.legend(loc="best", fontsize="small", frameon=False)
        axes.set_ylabel("return")
    if scores.blocks:
        figure.suptitle("Return of each task; shaded while it is trained", fontsize="medium")
    return figure


def draw_transfer(folder: str | Path) -> Figure:
    """Draw every task's return at the end of every block: rows are blocks, columns tasks.

    :param folder: of a run with ``MultiTaskEvalCallback`` and tasks one after another
    :raises ValueError: if the folder has no scores, or the tasks were interleaved
    """
    scores = load_scores(folder)
    ends_MN = block_ends(scores.score, scores.steps, scores.blocks)
    # Colors begin at 0, or at the worst return of a task if that is negative.
    lowest_N = np.minimum(scores.score.min(0), 0.0)
    ranges_N = np.maximum(scores.score.max(0) - lowest_N, 1e-12)
    digits_N = [decimals(column) for column in scores.score.T]
    labels = [[f"{v:z.{n}f}" for v, n in zip(row, digits_N, strict=True)] for row in ends_MN]
    rows = [f"{scores.task_names[block.task]}, to {block.end:,.0f}" for block in scores.blocks]
    unit = "worst return (or 0) to best"
    colors = {"cmap": "cividis", "vmin": 0.0, "vmax": 1.0}
    shares_MN = (ends_MN - lowest_N) / ranges_N
    figure = draw_matrix(shares_MN, labels, rows, scores.task_names, unit, **colors)
    figure.axes[0].set_xlabel("task evaluated")
    figure.axes[0].set_ylabel("block trained")
    figure.axes[0].set_title("Return at the end of each block")
    return figure


def draw_dormant(folder: str | Path) -> Figure:
    """Draw the share of dormant neurons of every hidden layer over training.

    :param folder: of a run with ``PlasticityCallback(log_path=folder)``
    :raises ValueError: if the folder has no diagnostics
    """
    figure = Picture(figsize=(5.8, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, (layer, (steps, shares)) in enumerate(_measured(folder, "dormant").items()):
        plot_mean(axes, steps, shares, None, layer, look_of(i))
    _mark_switches(axes, folder, "0.5")
    axes.set_ylim(bottom=-0.01)
    axes.set_ylabel("dormant neurons (share)")
    label_steps(axes)
    add_legend(figure, "layer")
    return figure


def draw_gates_over_time(folder: str | Path, mixture: str | None = None) -> Figure:
    """Draw the weight of each expert for each task over training.

    :param folder: of a run with ``RoutingCallback(log_path=folder)``
    :param mixture: its name, such as ``"pi.middle"``; None: the first
    :raises ValueError: if the folder has no gates, or none of that mixture
    """
    mixture, steps_K, gates_KNE, names = _gates(folder, mixture)
    experts = gates_KNE.shape[2]
    figure, rows = _task_rows(names, 1.3)
    # Columns meet half way between measurements; a single measurement has a column 1 step wide.
    count = len(steps_K)
    edges = np.interp(np.arange(count + 1) - 0.5, np.arange(count), steps_K)
    if count == 1:
        edges += (-0.5, 0.5)
    colors = colors_of_gates(gates_KNE)
    heights = np.arange(experts + 1) - 0.5
    for k, axes in enumerate(rows):
        image = axes.pcolormesh(edges, heights, gates_KNE[:, k].T, **colors)
        axes.set_yticks(range(0, experts, math.ceil(experts / _MOST_NUMBERED)))
        axes.set_ylabel("expert")
        _mark_switches(axes, folder, "white")
    figure.colorbar(image, ax=rows, label="mean gate")
    figure.suptitle(f"Experts of {mixture} by task", fontsize="medium")
    return figure


def draw_last_gates(folder: str | Path, mixture: str | None = None) -> Figure:
    """Draw which expert serves which task at the end of training.

    :param folder: of a run with ``RoutingCallback(log_path=folder)``
    :param mixture: its name, such as ``"pi.middle"``; None: the first
    :raises ValueError: if the folder has no gates, or none of that mixture
    """
    name, _, gates_KNE, names = _gates(folder, mixture)
    there_E = np.isfinite(gates_KNE[-1]).any(axis=0)  # NaN: removed, or not added yet
    return draw_gates(gates_KNE[-1][:, there_E], names, f"Experts of {name}")


def draw_routing(
    model: BaseAlgorithm,
    env: gym.Env | VecEnv | None = None,
    mixture: str | None = None,
    **kwargs: Any,
) -> Figure:
    """Play every task and draw the mean weight of each expert for each task.

    :param model: of any algorithm, with mixtures of experts
    :param env: as in :func:`sb3_moe.watch`; None: one like the model's own
    :param mixture: its name, such as ``"pi.middle"``; None: the first
    :param kwargs: other arguments of :func:`sb3_moe.watch`
    :raises ValueError: if there is no such mixture
    """
    replay = watch(model, env, frames=False, **kwargs)
    names = [each.name for each in replay.mixtures]
    if mixture not in (*names, None) or not names:
        raise ValueError(f"`mixture` must be one of {names}, got {mixture!r}")
    name = mixture or names[0]
    tracks = replay.runs[0].tracks
    gates_NE = np.stack([track.gates[name].mean(axis=0) for track in tracks])
    return draw_gates(gates_NE, [track.task for track in tracks], f"Experts of {name}")


def draw_gates(gates_NE: npt.ArrayLike, task_names: Sequence[str], title: str = "") -> Figure:
    """Draw the weight of each expert for each task.

    :param gates_NE: (N, E)
    :param task_names: of the rows
    :param title: above the picture
    """
    gates = np.asarray(gates_NE, np.float64)
    experts = [str(k) for k in range(gates.shape[1])]
    colors = colors_of_gates(gates)
    figure = draw_matrix(gates, as_numbers(gates), task_names, experts, "mean gate", **colors)
    figure.axes[0].set_xlabel("expert")
    figure.axes[0].set_title(title)
    return figure


def load_diagnostics(folder: str | Path) -> dict[str, np.ndarray]:
    """Read the diagnostics that a run's callbacks wrote, as arrays by name.

    :raises ValueError: if the folder has no diagnostics
    """
    path = Path(folder) / "diagnostics.npz"
    if not path.exists():
        raise ValueError(
            f"{folder} has no diagnostics.npz; train with PlasticityCallback(log_path=folder) or "
            "RoutingCallback(log_path=folder) to get one"
        )
    return read_npz(path)


def _measured(folder: str | Path, kind: str) -> dict[str, tuple[Array, Array]]:
    """Return the steps and the values of one kind of measurement, by layer or mixture."""
    found = measured(load_diagnostics(folder), kind)
    if not found:
        callback = {"gates": "RoutingCallback", "dormant": "PlasticityCallback"}[kind]
        raise ValueError(
            f"diagnostics.npz has no {kind}; train with {callback}(log_path=folder) to get them"
        )
    return found


def measured(diagnostics: Mapping[str, np.ndarray], kind: str) -> dict[str, tuple[Array, Array]]:
    """Select one kind of measurement, without the steps at which only other callbacks measured.

    :param diagnostics: the arrays of ``diagnostics.npz``, (K, ...), NaN where nothing was measured
    :param kind: how their names begin, such as ``"dormant"``
    :return: steps and values, by layer or mixture
    """
    found = {}
    for name, values in diagnostics.items():
        start, _, place = name.partition("/")
        if start == kind:
            there = np.isfinite(values).any(axis=tuple(range(1, values.ndim)))
            found[place] = (diagnostics["steps"][there], values[there])
    return found


def _gates(folder: str | Path, mixture: str | None) -> tuple[str, Array, Array, list[str]]:
    """Return a mixture's name, the steps, its gates (K, N, E), and the tasks' names."""
    found = _measured(folder, "gates")
    name = mixture or next(iter(found))
    if name not in found:
        raise ValueError(f"`mixture` must be one of {[*found]}, got {mixture!r}")
    return name, *found[name], load_diagnostics(folder)["task_names"].tolist()


def _task_rows(names: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure with a row for each task, above one axis of steps."""
    figure = Picture(figsize=(7.0, 1.2 + height * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)
    rows = panels[:, 0].tolist()
    for axes, name in zip(rows, names, strict=True):
        axes.set_title(escaped(name), loc="left", fontsize="medium")
    label_steps(rows[-1])
    return figure, rows


def _mark_switches(axes: Axes, folder: str | Path, color: str) -> None:
    """Draw a line at each change of the task, if the folder has scores that tell it."""
    if (Path(folder) / "scores.npz").exists():
        for block in load_scores(folder).blocks[1:]:
            axes.axvline(block.start, color=color, linestyle=":", linewidth=1)


def save_figure(
    figure: Figure, path: str | Path, formats: Sequence[str] = FORMATS, dpi: int = 150
) -> list[Path]:
    """Write a figure, once for each format; the same figure gives the same bytes.

    :param figure: of matplotlib
    :param path: of the files, without a suffix
    :param formats: of ``"png"``, ``"svg"`` and ``"pdf"``
    :param dpi: of the PNG
    :return: the files
    """
    files = [Path(f"{path}.{each}") for each in formats]
    # Laid out once, not once for each format.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for file, each in zip(files, formats, strict=True):
        with atomic(file) as temporary, matplotlib.rc_context({"svg.hashsalt": file.stem}):
            figure.savefig(temporary, format=each, dpi=dpi, metadata=_METADATA[each])
    return files


def save_figures(
    folder: str | Path,
    target: str | Path | None = None,
    random: Mapping[str, float] | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw what a run measured.

    :param folder: of the run
    :param target: where the files go; None: ``figures`` in the run's folder
    :param random: return of a random agent by task, for the learning curves
    :param formats: see :func:`save_figure`
    :return: the files
    :raises ValueError: if the folder has neither scores nor diagnostics
    """
    folder = Path(folder)
    target = folder / "figures" if target is None else Path(target)
    diagnostics = load_diagnostics(folder) if (folder / "diagnostics.npz").exists() else {}
    figures = {}
    if (folder / "scores.npz").exists() or not diagnostics:
        figures["learning_curves"] = draw_learning_curves(folder, random)
        if load_scores(folder).blocks:
            figures["transfer"] = draw_transfer(folder)
    if measured(diagnostics, "dormant"):
        figures["dormant"] = draw_dormant(folder)
    for name in measured(diagnostics, "gates"):
        figures[f"gates-{name}"] = draw_gates_over_time(folder, name)
        figures[f"last-gates-{name}"] = draw_last_gates(folder, name)
    return [
        path
        for name, figure in figures.items()
        for path in save_figure(figure, target / name, formats)
    ]


class Picture(Figure):
    """A figure that shows itself in a notebook, whatever backend there is."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def into_panels(names: Sequence[str]) -> list[list[str]]:
    """Distribute networks evenly over as few panels as have room for them."""
    parts = math.ceil(len(names) / MOST_LINES)
    return [each.tolist() for each in np.array_split(names, parts)]


def panels(number: int, height: float, across: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with a number of panels.

    :param height: of a panel, in inches
    :param across: panels side by side, at most
    """
    columns = min(across, number)
    rows = math.ceil(number / columns)
    figure = Picture(figsize=(3.4 * columns, height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, k + 1) for k in range(number)]


def look_of(index: int) -> dict[str, Any]:
    """Return the color and marker of a network, as matplotlib takes them: 56 different pairs.

    :param index: of the network in its study, so that it looks the same in every figure
    """
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def plot_mean(
    axes: Axes, x: Any, mean: Any, interval: tuple[Any, Any] | None, label: str, look: Any
) -> None:
    """Draw a line with a few markers, and its interval as a band.

    :param axes: where to draw
    :param x: (K,)
    :param mean: (K,)
    :param interval: the ends of the band, (K,) each; None: no band
    :param label: of the legend
    :param look: from :func:`look_of`
    """
    # A few markers tell lines apart in print; each line has its markers at different steps.
    every = max(len(x) // 4, min(MOST_LINES, len(x) // 2), 1)
    style = {"linewidth": 1.6, "markersize": 4, "markevery": (len(axes.lines) % every, every)}
    axes.plot(x, mean, label=escaped(label), **(style | look))
    if interval is not None:
        axes.fill_between(x, *interval, color=look["color"], alpha=0.15, linewidth=0)


def escaped(name: str) -> str:
    """Keep matplotlib from reading a name as a formula, or leaving it out of a legend."""
    escaped = name.replace("$", r"\$")
    # Legends pass over labels that begin with _; this space before it has no width.
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped


def label_steps(axes: Axes) -> None:
    """Name the horizontal axis, and write its numbers as 50k or 1.2M."""
    axes.set_xlabel("environment steps of all tasks")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_matrix(
    values: Array,
    labels: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    unit: str,
    **colors: Any,
) -> Figure:
    """Draw a matrix as colors with its numbers written in.

    :param values: shown as colors
    :param labels: text of each cell
    :param rows: names of the rows
    :param columns: names of the columns
    :param unit: label of the color bar
    :param colors: ``cmap``, ``vmin`` and ``vmax``
    """
    wide = 0.8 + 0.1 * max(map(len, columns))
    size = (2.6 + wide * len(columns), 1.4 + 0.5 * len(rows))
    figure = Picture(figsize=size, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", **colors)
    axes.set_yticks(range(len(rows)), map(escaped, rows))
    axes.set_xticks(range(len(columns)), map(escaped, columns))
    write_into(axes, image, labels)
    figure.colorbar(image, ax=axes, label=unit)
    return figure


def write_into(
    axes: Axes, image: Any, labels: Sequence[Sequence[str]], fontsize: float | None = None
) -> None:
    """Write a text into each cell of a matrix, dark on light and light on dark.

    :param axes: on which the image is
    :param image: of the matrix
    :param labels: text of each cell
    :param fontsize: in points; None: matplotlib's
    """
    colors = image.to_rgba(image.get_array())
    for (row, column), label in np.ndenumerate(labels):
        red, green, blue, opaque = colors[row, column]
        # By the luminance that a reader sees: NaN is transparent, which shows the white page.
        light = opaque * (0.299 * red + 0.587 * green + 0.114 * blue) + 1 - opaque
        color = "w" if light < 0.5 else "k"
        axes.text(column, row, label, ha="center", va="center", color=color, fontsize=fontsize)


def as_numbers(values: Array) -> list[list[str]]:
    """Format a matrix's numbers, with a dash for NaN, and no minus where one rounds to 0."""
    return [[f"{each:z.2f}" if each == each else "-" for each in row] for row in values]


def colors_of_gates(gates: np.ndarray) -> dict[str, Any]:
    """Return the color map of gates and its ends: a diverging map if any is negative (MOORE).

    :param gates: all gates that share the color map, of any shape
    """
    finite = gates[np.isfinite(gates)]
    low = finite.min(initial=0.0)
    high = finite.max(initial=0.0)
    if low >= 0:
        return {"cmap": "cividis", "vmin": 0.0, "vmax": high}
    largest = max(-low, high)
    return {"cmap": "PuOr_r", "vmin": -largest, "vmax": largest}


def add_legend(figure: Figure, title: str | None = None) -> None:
    """Put one legend above all axes, and make the figure higher by as much."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    width, height = figure.get_size_inches()
    # Inches: 0.6 for a line's sample, 0.085 for a letter of the default font, 0.2 for a text line.
    columns = int(width / (0.6 + 0.085 * max(map(len, entries)))) or 1
    lines = math.ceil(len(entries) / columns) + bool(title)
    figure.set_figheight(height + 0.2 * lines)
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=columns, title=title)
