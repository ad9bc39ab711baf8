"""What every figure shares: colors, lines, marked blocks, and matrices with their numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from sb3_moe.measures import Block, load_scores

# Okabe and Ito's colors, which all readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Array = npt.NDArray[np.float64]


class Picture(Figure):
    """A figure that shows itself in a notebook, whatever backend there is."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


class Look(NamedTuple):
    """How a line looks: a color, and the lengths of its dashes and gaps, none for a whole line."""

    color: str
    dashes: tuple[float, ...]

    @property
    def style(self) -> dict[str, Any]:
        """As matplotlib takes it."""
        return {"color": self.color, "linestyle": (0, self.dashes) if self.dashes else "-"}


def look_of(index: int) -> Look:
    """Give a line a look of its own, however many there are; neighbours differ in both."""
    # Seven colors and four dashes have no common divisor: 28 pairs, then there are more dots.
    kind = index % 4 + 4 * (index // (4 * len(COLORS)))
    dashes = (6.0, 2.5, *(1.5, 2.5) * (kind - 1)) if kind else ()
    return Look(COLORS[index % len(COLORS)], dashes)


def line(axes: Axes, x: Any, y: Any, label: str, index: int, marker: str = "") -> None:
    """Draw a line that differs from its neighbours in color and, for print, in style."""
    axes.plot(
        x,
        y,
        label=as_written(label),
        marker=marker,
        markersize=3,
        **look_of(index).style,
    )


def as_written(name: str) -> str:
    """Keep matplotlib from reading a name as a formula, or leaving it out of a legend."""
    escaped = name.replace("$", r"\$")
    # Legends pass over labels that begin with _; this space before it has no width.
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped


def label_steps(axes: Axes) -> None:
    """Name the horizontal axis, with thousands or millions written out."""
    axes.set_xlabel("global steps")
    axes.xaxis.set_major_formatter(lambda step, _: short(step))


def short(step: float) -> str:
    """Write a number of steps as a reader would say it, with up to four digits: 50k, 1.2M."""
    # As the reports' script has it. Rounded first: 999,960 is 1M, not 1000k.
    rounded = float(f"{step:.4g}")
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= unit:
            return f"{rounded / unit:g}{sign}"
    return f"{rounded:g}"


def mark_switches(axes: Axes, folder: str | Path, color: str = "0.5") -> None:
    """Draw a line where the task changed, if the folder says so."""
    if (Path(folder) / "scores.npz").exists():
        for block in load_scores(folder).blocks[1:]:
            axes.axvline(block.start, color=color, linestyle=":", linewidth=1)


def shade_blocks(axes: Axes, blocks: Sequence[Block], task: int) -> None:
    """Shade the steps in which a task was trained."""
    for block in blocks:
        if block.task == task:
            axes.axvspan(block.start, block.end, color="0.9", zorder=0, linewidth=0)
    for block in blocks[1:]:
        axes.axvline(block.start, color="0.5", linestyle=":", linewidth=1, zorder=0)


def matrix(
    values: Array,
    labels: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
    cmap: str,
    unit: str,
) -> Figure:
    """Draw a matrix as colors with its numbers written in.

    :param values: of the colors
    :param labels: what is written
    :param rows: names of the rows
    :param columns: names of the columns
    :param limits: values at the ends of the colors
    :param cmap: matplotlib's name of the colors
    :param unit: beside the color bar
    """
    wide = 0.8 + 0.1 * max(map(len, columns))
    size = (2.6 + wide * len(columns), 1.4 + 0.5 * len(rows))
    figure = Picture(figsize=size, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_yticks(range(len(rows)), [as_written(name) for name in rows])
    axes.set_xticks(range(len(columns)), [as_written(name) for name in columns])
    write_into(axes, image, labels)
    figure.colorbar(image, ax=axes, label=unit)
    return figure


def write_into(
    axes: Axes, image: AxesImage, labels: Sequence[Sequence[str]], fontsize: float | None = None
) -> None:
    """Write a text into each field of a matrix, dark on light and light on dark.

    :param axes: on which the image is
    :param image: of the matrix
    :param labels: what is written
    :param fontsize: in points; None: matplotlib's
    """
    values = image.get_array()
    assert values is not None
    colors = image.to_rgba(values)
    for row, column in np.ndindex(*colors.shape[:2]):
        red, green, blue, opaque = colors[row, column]
        # By the luminance that a reader sees; what is no number has no color, on a white page.
        light = opaque * (0.299 * red + 0.587 * green + 0.114 * blue) + 1 - opaque
        axes.text(
            column,
            row,
            labels[row][column],
            ha="center",
            va="center",
            color="w" if light < 0.5 else "k",
            fontsize=fontsize,
        )


def legend_beside(figure: Figure, title: str | None = None) -> None:
    """Put a legend to the right of all axes, for which the figure grows."""
    labels = [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    width, height = figure.get_size_inches()
    # In inches: a line's sample and a letter of the default font, and a line of text.
    beside = 0.7 + 0.085 * max(map(len, labels))
    figure.set_size_inches(width + beside, max(height, 0.6 + 0.21 * len(labels)))
    figure.legend(loc="outside right upper", frameon=False, title=title)


def as_numbers(values: Array, form: str) -> list[list[str]]:
    """Write a matrix's numbers, a dash for what is none.

    :param values: of the fields
    :param form: as ``"z.2f"``, whose z takes the minus from what is rounded to 0
    """
    return [[format(each, form) if each == each else "-" for each in row] for row in values]
