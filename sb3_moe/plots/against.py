"""Figures of a value against what it cost, or against what was asked, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from sb3_moe.plots.style import COLORS, Picture, as_written, legend_beside, look_of

MARKS = (1.0, 2.0, 5.0)
#: Of dots: those of one color differ in shape.
SHAPES = "osD^"


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
    for index, (name, each) in enumerate(points.items()):
        xs, values, lows, highs = np.array(each).T
        ends = values - lows, highs - values
        look = {"marker": SHAPES[index // len(COLORS) % len(SHAPES)], **look_of(index).style}
        axes.errorbar(xs, values, ends, label=as_written(name), markersize=4, **look)
    axes.set_xscale("log")
    places = sorted({point.x for point in every})
    axes.xaxis.set_major_locator(FixedLocator(places) if doubling else LogLocator(10, MARKS))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    legend_beside(figure)
    return figure
