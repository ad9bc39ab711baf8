"""Figures of a study; those of one run are in :mod:`sb3_moe.watching.figures`.

Shapes: S seeds, K evaluations, N tasks, E experts.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sb3_moe.study.judging import t_interval
from sb3_moe.study.measures import INSIDES, WHOLE, Array, planned_blocks
from sb3_moe.study.results import Results
from sb3_moe.watching.figures import (
    as_numbers,
    as_written,
    colors_of_gates,
    look_of,
    plot_mean,
    short,
    was_measured,
    write_into,
)

#: Panels side by side, at most: so many can be read on a page of a paper or a screen.
ACROSS = 3
#: Experts in a panel, at most, for whose numbers there is room.
MOST_WRITTEN = 12
#: Of matplotlib's default font, in inches: a letter, and a line's sample in a legend.
LETTER, SAMPLE = 0.085, 0.6

REGIMES = {
    "mtrl": "interleaved",
    "crl": "one after the other",
    "scratch": "alone",
    "schedule": "as the schedule chooses",
}
#: What can be drawn against steps.
CURVES = ("return", "success", *INSIDES)


def figures(results: Results, verdicts: pd.DataFrame) -> dict[str, Figure]:
    """Draw all that there is something to draw of, by name."""
    drawn = {name: draw_curves(results, name) for name in CURVES}
    drawn |= {"differences": draw_differences(verdicts), "expert_weights": draw_experts(results)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def draw_curves(results: Results, measure: str) -> Figure | None:
    """Draw a measure against steps: a panel for each task, and for each way to mix the tasks.

    Lines are means over seeds, bands are Student's 95% intervals, shading marks the steps in which
    the task was trained, and the dotted line is the random policy.

    :return: None if no run has measured it
    """
    rows = results.table[results.table["measure"] == measure].dropna(subset=["step", "value"])
    # Of runs on one task alone, what other tasks return means nothing.
    alone = (rows["regime"] == "scratch") & (rows["task"] != WHOLE)
    rows = rows[~alone | (rows["order"] == rows["task"])]
    if rows.empty:
        return None
    panels: list[Any] = list(rows.groupby(["regime", "order", "task"], sort=False))
    figure, axes = _panels(len(panels), 2.5)
    limits = rows.groupby("task")["value"].agg(["min", "max"])
    looks = {each.name: look_of(k) for k, each in enumerate(results.study.architectures)}
    runs: Any = {(r.config.regime, " ".join(r.config.order)): r.config for r in results.runs}
    for ax, ((regime, order, task), curves) in zip(axes, panels, strict=True):
        title = REGIMES[regime] if regime == "scratch" else f"{REGIMES[regime]} {order}".strip()
        title = title if task == WHOLE else f"{task}, {title}"
        ax.set_title(as_written(_wrapped(title)), fontsize="medium")
        for name, seeds in curves.groupby("architecture", sort=False):
            # At the steps that all seeds have.
            wide = seeds.pivot_table(index="step", columns="seed", values="value").dropna()
            steps, values_SK = wide.index.to_numpy(float), wide.to_numpy().T
            mean, interval = values_SK.mean(0), t_interval(values_SK)
            plot_mean(ax, steps, mean, interval, str(name), looks[str(name)])
        low, high = limits.loc[task]
        if measure == "return":
            level = results.random[task]
            low, high = min(low, level), max(high, level)
            ax.axhline(level, color="0.35", linewidth=1, linestyle=":", label="random policy")
        # Intervals of few seeds would leave no room for the curves.
        margin = 0.05 * (high - low) or 1.0
        ax.set_ylim(low - margin, high + margin)
        for block in planned_blocks(runs[regime, order], task):
            ax.axvspan(*block, color="0.93", zorder=0)
        ax.xaxis.set_major_formatter(lambda step, _: short(step))
    figure.supxlabel("steps of all tasks together", fontsize="medium")
    figure.supylabel(measure.replace("_", " "), fontsize="medium")
    _legend(figure)
    return figure


def _panels(number: int, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure with so many panels, at most :data:`ACROSS` side by side.

    :param height: of a panel, in inches
    """
    columns = min(ACROSS, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(3.4 * columns, height * rows), layout="constrained")
    with rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[number:]:
        ax.remove()
    return figure, axes[:number]


def _legend(figure: Figure) -> None:
    """Put one legend above all panels, for which the figure grows."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    width, height = figure.get_size_inches()
    columns = int(width / (SAMPLE + LETTER * max(map(len, entries)))) or 1
    figure.set_figheight(height + 0.2 * -(-len(entries) // columns))
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=columns)


def draw_differences(verdicts: pd.DataFrame) -> Figure | None:
    """Draw the difference of every primary contrast with its interval: a panel for each measure.

    Shading marks what is smaller than the smallest effect that matters.

    :param verdicts: see :func:`~sb3_moe.study.judging.judge`
    :return: None if there is none
    """
    rows = verdicts[verdicts["primary"] & (verdicts["seeds"] > 0)] if len(verdicts) else verdicts
    if rows.empty:
        return None
    texts = rows["claim"] + ": " + rows["contrast"] + ", " + rows["task"]
    panels = list(rows.assign(label=texts.map(_wrapped)).groupby("measure", sort=False))
    heights = [panel["label"].str.count("\n").sum() + 2 * len(panel) for _, panel in panels]
    size = (8.5, 0.17 * sum(heights) + 0.8 * len(panels))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for ax, (measure, panel) in zip(axes, panels, strict=True):
        for k, row in enumerate(panel.to_dict("records")):
            small = row["smallest_effect"]
            ax.fill_betweenx([k - 0.4, k + 0.4], -small, small, color="0.9", linewidth=0)
            ax.plot([row["low"], row["high"]], [k, k], color="#0072B2", linewidth=2)
            ax.plot(row["difference"], k, "o", color="#0072B2")
        ax.axvline(0, color="0.35", linewidth=1)
        ax.set_yticks(range(len(panel)), panel["label"].map(as_written))
        ax.set_ylim(len(panel) - 0.5, -0.5)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_xlabel(as_written(f"difference in {measure}"))
    return figure


def draw_experts(results: Results) -> Figure | None:
    """Draw how much of each task every expert serves at the end of training, mean over seeds.

    Experts are in the order of :func:`expert_weights`.

    :return: a panel per network, layer and way to mix tasks; None if no run has learned routers
    """
    panels = expert_weights(results)
    if not panels:
        return None
    most = max(len(tasks) for _, tasks in panels)
    figure, axes = _panels(len(panels), 1.5 + 0.25 * most)
    colors = colors_of_gates(np.concatenate([w.ravel() for w in panels.values()]))
    for ax, ((caption, tasks), weights_NE) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(weights_NE, aspect="auto", **colors)
        experts = weights_NE.shape[1]
        if experts <= MOST_WRITTEN:
            write_into(ax, image, as_numbers(weights_NE, "z.2f"), fontsize=7)
        ax.set_title(as_written(_wrapped(caption)), fontsize="small")
        ax.set_yticks(range(len(tasks)), map(as_written, tasks), fontsize="small")
        ax.set_xticks(range(0, experts, -(-experts // MOST_WRITTEN)))
        ax.set_xlabel(as_written(f"experts, sorted by {tasks[0]}"), fontsize="small")
    figure.colorbar(image, ax=axes, label="mean weight", shrink=0.8)
    return figure


def expert_weights(results: Results) -> dict[tuple[str, tuple[str, ...]], Array]:
    """Average the last gates over seeds, by caption and tasks, (N, E) each.

    An expert's number is chance, and so is its sign where weights have both. So each seed's experts
    are sorted by the size of their weight for the first task, and turned to have it above zero.
    Where experts join at a new task a seed may have more of them: what another lacks counts as 0.
    Gates that never changed are left out: their routers don't learn.
    """
    found: dict[tuple[str, tuple[str, ...]], list[pd.DataFrame]] = {}
    for run in results.runs:
        config = run.config
        tasks = config.order if config.regime == "scratch" else config.games
        where = f"{REGIMES[config.regime]} {' '.join(config.order)}".strip()
        for name in [name for name in run.diagnostics if name.startswith("gates/")]:
            gates_KNE = run.diagnostics[name]
            gates_KNE = gates_KNE[was_measured(gates_KNE)]
            unchanged = np.allclose(gates_KNE[:1], gates_KNE[-1:], equal_nan=True)
            if len(gates_KNE) == 0 or (len(gates_KNE) > 1 and unchanged):
                continue
            last_NE = gates_KNE[-1]
            last_NE = last_NE[[config.games.index(task) for task in tasks]]
            last_NE = last_NE[:, np.isfinite(last_NE).all(axis=0)]
            turned_NE = last_NE * np.where(last_NE[0] < 0, -1.0, 1.0)
            sorted_NE = pd.DataFrame(turned_NE[:, np.argsort(-turned_NE[0])])
            caption = f"{config.architecture.name} {name.removeprefix('gates/')}, {where}"
            found.setdefault((caption, tasks), []).append(sorted_NE)
    return {
        key: pd.concat(each, keys=range(len(each))).fillna(0).groupby(level=1).mean().to_numpy()
        for key, each in found.items()
    }


def _wrapped(text: str) -> str:
    # Names of many tasks would leave a panel no room.
    return "\n".join(textwrap.wrap(text, 36, max_lines=5, placeholder=" …"))
