"""Figures of how well each task is played.

Shapes: N tasks, M blocks of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from sb3_moe.measures import (
    Scores,
    block_ends,
    forgetting_isolated,
    load_scores,
    performance_profile,
)
from sb3_moe.measures.statistics import decimals
from sb3_moe.plots.style import (
    COLORS,
    Array,
    Picture,
    as_numbers,
    as_written,
    label_steps,
    legend_beside,
    line,
    matrix,
    shade_blocks,
    short,
)


def draw_learning_curves(folder: str | Path, random: Mapping[str, float] | None = None) -> Figure:
    """Draw the mean return of every task over training, with the blocks in which it was trained.

    :param folder: of a run with ``MultiTaskEvalCallback(log_path=folder)``
    :param random: return of a random agent by task, drawn as a dotted line
    :raises ValueError: if the folder has no scores
    """
    scores = load_scores(folder)
    count = len(scores.task_names)
    figure = Picture(figsize=(7.0, 1.2 + 1.5 * count), layout="constrained")
    rows = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for k, (axes, name) in enumerate(zip(rows, scores.task_names, strict=True)):
        axes.plot(scores.steps, scores.score[:, k], color=COLORS[k % len(COLORS)], marker=".")
        shade_blocks(axes, scores.blocks, k)
        if random is not None and name in random:
            axes.axhline(random[name], color="0.3", linestyle=":")
            axes.annotate(
                "random",
                (1.0, random[name]),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
                color="0.3",
            )
        axes.set_title(as_written(name), loc="left", fontsize="medium")
        axes.set_ylabel("return")
    label_steps(rows[-1])
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
    # Where returns are negative the worst one is the origin: it is the furthest from 0.
    lowest_N = np.minimum(scores.score.min(0), 0.0)
    ranges_N = np.maximum(scores.score.max(0) - lowest_N, 1e-12)
    digits_N = [decimals(column) for column in scores.score.T]
    labels = [[f"{v:z.{n}f}" for v, n in zip(row, digits_N, strict=True)] for row in ends_MN]
    shares = (ends_MN - lowest_N) / ranges_N
    unit = "from 0, or the task's lowest return, to its best"
    figure = _block_matrix(scores, shares, labels, (0.0, 1.0), "cividis", unit)
    figure.axes[0].set_title("Return at the end of each block")
    return figure


def draw_forgetting(folder: str | Path) -> Figure:
    """Draw what each block took from each task, by the task's largest return in size.

    :param folder: of a run with ``MultiTaskEvalCallback`` and tasks one after another
    :raises ValueError: if the folder has no scores, or the tasks were interleaved
    """
    scores = load_scores(folder)
    lost_MN = forgetting_isolated(scores.score, scores.steps, scores.blocks)
    # More than all of it, where returns change their sign.
    size = float(np.max(np.abs(lost_MN), initial=1.0, where=np.isfinite(lost_MN)))
    labels, unit = as_numbers(lost_MN, "+z.2f"), "lost (+) or gained (-)"
    figure = _block_matrix(scores, lost_MN, labels, (-size, size), "PuOr_r", unit)
    figure.axes[0].set_title("Isolated forgetting of each block")
    return figure


def draw_performance_profile(
    scores: Mapping[str, npt.ArrayLike], thresholds: npt.ArrayLike | None = None
) -> Figure:
    """Draw the share of runs above each score, one line for each algorithm.

    :param scores: normalised scores (seeds, tasks) by algorithm
    :param thresholds: (any number,); None: 101 from 0, or the lowest score below it, to the highest
    :raises ValueError: if there are no scores, one is not finite, or a shape is another one
    """
    every = [float(score) for each in scores.values() for score in np.ravel(each)]
    if not every:
        raise ValueError("`scores` must hold at least one score, got none")
    ends = min(*every, 0.0), max(every)
    at = np.linspace(*ends, 101) if thresholds is None else np.asarray(thresholds)
    figure = Picture(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for i, (name, each) in enumerate(scores.items()):
        line(axes, at, performance_profile(each, at), name, i, marker="")
    axes.set_xlabel("normalised score")
    axes.set_ylabel("runs with a higher score (share)")
    axes.set_ylim(-0.02, 1.02)
    legend_beside(figure)
    return figure


def _block_matrix(
    scores: Scores,
    values: Array,
    labels: Sequence[Sequence[str]],
    limits: tuple[float, float],
    cmap: str,
    unit: str,
) -> Figure:
    rows = [f"{scores.task_names[block.task]}, to {short(block.end)}" for block in scores.blocks]
    figure = matrix(values, labels, rows, scores.task_names, limits, cmap, unit)
    figure.axes[0].set_xlabel("task evaluated")
    figure.axes[0].set_ylabel("block trained")
    return figure
