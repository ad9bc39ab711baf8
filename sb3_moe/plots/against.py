"""Pictures of a value against what it cost, or against what was asked, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from sb3_moe.plots.style import COLOURS, Picture, as_written, line

MARKS = (1.0, 2.0, 5.0)


class Point(NamedTuple):
    """A value with its interval, at a place on the horizontal axis."""

    x: float
    value: float
    low: float
    high: float


def draw_against(
    points: Mapping[str, Sequence[Point]],
    xlabel: str,
    ylabel: str = "return",
    *,
    doubling: bool = False,
) -> Figure:
    """Draw values with their intervals: a line for each name, or a dot where it has one point.

    :param points: by name, in the order of a line
    :param xlabel: what the horizontal axis shows
    :param ylabel: what the values are
    :param doubling: mark the horizontal axis where points are, not at round numbers
    :raises ValueError: if there are no points, or one is not above zero, where a logarithm ends, or
        not at a finite place
    """
    every = [point for each in points.values() for point in each]
    if not every:
        raise ValueError("`points` must hold at least one point, got none")
    for point in every:
        if not 0 < point.x < math.inf:
            raise ValueError(f"`points` must lie above zero, at finite `x`, got {point.x}")
    figure = Picture(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    named: list[Point] = []
    for index, (name, each) in enumerate(points.items()):
        xs = [point.x for point in each]
        line(axes, xs, [point.value for point in each], name, index, marker="o")
        colour = COLOURS[index % len(COLOURS)]
        axes.vlines(xs, [p.low for p in each], [p.high for p in each], color=colour, linewidth=1.5)
        if len(each) == 1:
            crowded = any(_near(each[0], other, every) for other in named)
            named.append(each[0])
            axes.annotate(
                as_written(name),
                (each[0].x, each[0].value),
                xytext=(-6 if crowded else 6, 0),
                textcoords="offset points",
                ha="right" if crowded else "left",
                va="center",
                color=colour,
                fontsize="small",
            )
    axes.set_xscale("log")
    marks = (
        FixedLocator(sorted({point.x for point in every})) if doubling else LogLocator(10, MARKS)
    )
    axes.xaxis.set_major_locator(marks)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if any(len(each) > 1 for each in points.values()):
        axes.legend(frameon=False, fontsize="small")
    else:
        axes.margins(x=0.3)  # room for names
    return figure


def _near(point: Point, other: Point, every: Sequence[Point]) -> bool:
    """Tell whether names to the right of both would lie upon each other."""
    height = max(each.high for each in every) - min(each.low for each in every)
    return max(point.x, other.x) < 1.3 * min(point.x, other.x) and (
        abs(point.value - other.value) < 0.05 * height
    )
