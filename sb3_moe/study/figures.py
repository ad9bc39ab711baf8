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

from sb3_moe.study.judging import t_interval
from sb3_moe.study.results import INSIDES, WHOLE, Array, Results, planned_blocks
from sb3_moe.watching import figures as plots

#: Panels side by side, at most: so many can be read on a page of a paper or a screen.
ACROSS = 3
#: Experts in a panel, at most, for whose numbers there is room.
MOST_WRITTEN = 12

REGIMES = {
    "mtrl": "interleaved",
    "crl": "one after the other",
    "scratch": "alone",
    "schedule": "as the schedule chooses",
}
#: What can be drawn against steps.
CURVES = ("return", "success", *INSIDES)


def figures(results: Results) -> dict[str, Figure]:
    """Draw all that there is something to draw of, by name."""
    drawn = {name: draw_curves(results, name) for name in CURVES}
    drawn["expert_weights"] = draw_experts(results)
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
    looks = {each.name: plots.look_of(k) for k, each in enumerate(results.study.architectures)}
    runs: Any = {(r.config.regime, " ".join(r.config.order)): r.config for r in results.runs}
    for ax, ((regime, order, task), curves) in zip(axes, panels, strict=True):
        title = REGIMES[regime] if regime == "scratch" else f"{REGIMES[regime]} {order}".strip()
        title = title if task == WHOLE else f"{task}, {title}"
        ax.set_title(plots.as_written(_wrapped(title)), fontsize="medium")
        for name, seeds in curves.groupby("architecture", sort=False):
            # At the steps that all seeds have.
            wide = seeds.pivot_table(index="step", columns="seed", values="value").dropna()
            steps, values_SK = wide.index.to_numpy(float), wide.to_numpy().T
            mean, interval = values_SK.mean(0), t_interval(values_SK)
            plots.plot_mean(ax, steps, mean, interval, str(name), looks[str(name)])
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
        ax.xaxis.set_major_formatter(lambda step, _: plots.short(step))
    figure.supxlabel("steps of all tasks together", fontsize="medium")
    figure.supylabel(measure.replace("_", " "), fontsize="medium")
    plots.add_legend(figure)
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
    colors = plots.colors_of_gates(np.concatenate([w.ravel() for w in panels.values()]))
    for ax, ((caption, tasks), weights_NE) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(weights_NE, aspect="auto", **colors)
        experts = weights_NE.shape[1]
        if experts <= MOST_WRITTEN:
            plots.write_into(ax, image, plots.as_numbers(weights_NE, "z.2f"), fontsize=7)
        ax.set_title(plots.as_written(_wrapped(caption)), fontsize="small")
        ax.set_yticks(range(len(tasks)), map(plots.as_written, tasks), fontsize="small")
        ax.set_xticks(range(0, experts, -(-experts // MOST_WRITTEN)))
        ax.set_xlabel(plots.as_written(f"experts, sorted by {tasks[0]}"), fontsize="small")
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
    for run in [run for run in results.runs if run.is_done]:
        config = run.config
        tasks = config.order if config.regime == "scratch" else config.games
        where = f"{REGIMES[config.regime]} {' '.join(config.order)}".strip()
        for name in [name for name in run.diagnostics if name.startswith("gates/")]:
            gates_KNE = run.diagnostics[name]
            gates_KNE = gates_KNE[plots.was_measured(gates_KNE)]
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
