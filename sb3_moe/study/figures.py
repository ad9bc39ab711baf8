"""Figures of a study; those of one run are in :mod:`sb3_moe.watching.figures`.

Shapes: S seeds, K evaluations, N tasks, E experts.
"""

import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy.optimize import linear_sum_assignment

from sb3_moe.study.judging import t_interval
from sb3_moe.study.results import (
    INSIDES,
    RUN,
    WHOLE,
    Array,
    Results,
    key_of,
    planned_blocks,
)
from sb3_moe.watching import figures as plots

#: Most panels side by side that can be read on a page of a paper or a screen.
ACROSS = 3
#: Most experts in a panel for which there is room to write their weights.
MOST_WRITTEN = 12

REGIMES = {
    "mtrl": "interleaved",
    "crl": "one after the other",
    "scratch": "alone",
    "schedule": "as the schedule chooses",
}
#: The measures that can be drawn against steps, with the labels of their vertical axes.
CURVES = {"return": "return per episode", "success": "share of episodes that succeed", **INSIDES}
MEAN = "mean over tasks"


def figures(results: Results, units: Mapping[str, float]) -> dict[str, Figure]:
    """Draw every figure for which there are data, by name.

    :param units: as in :func:`draw_curves`
    """
    drawn = {name: draw_curves(results, name, units) for name in CURVES}
    drawn["expert_weights"] = draw_experts(results)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def draw_curves(
    results: Results,
    measure: str,
    units: Mapping[str, float] | None = None,
    looks: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure | None:
    """Draw a measure against steps: first the mean over tasks, then each task.

    Each way to mix the tasks has panels of its own. Lines are means over seeds, bands are Student's
    95% intervals, shading marks the steps in which the task was trained, and the dotted line is the
    random policy.

    :param units: what a task's return is divided by before the mean over tasks, as in the claims
    :param looks: by network, from :func:`sb3_moe.watching.figures.look_of`; None: by the study's
        order
    :return: None if no run has measured it
    """
    rows = results.table[results.table["measure"] == measure].dropna(subset=["step", "value"])
    # In runs on one task alone, the returns of the other tasks mean nothing.
    alone = (rows["regime"] == "scratch") & (rows["task"] != WHOLE)
    rows = _comparable(rows[~alone | (rows["order"] == rows["task"])], results)
    if rows.empty:
        return None
    units = (units or {}) if measure == "return" else {}
    levels = dict(results.random) if measure == "return" else {}
    if levels:
        levels[MEAN] = fmean(level / units.get(task, 1.0) for task, level in levels.items())
    rows = pd.concat([_means(rows, units), rows])
    names = results.study.networks
    looks = {name: plots.look_of(k) for k, name in enumerate(names)} | dict(looks or {})
    drawn = set(rows["architecture"])
    parts = plots.into_panels([name for name in names if name in drawn])
    panels: list[Any] = [
        (*key, some, f" ({k} of {len(parts)})" if len(parts) > 1 else "")
        for key, curves in rows.groupby(["regime", "order", "task"], sort=False)
        for k, part in enumerate(parts, 1)
        if len(some := curves[curves["architecture"].isin(part)])
    ]
    # The parts of a panel with too many networks stand side by side.
    across = ACROSS // len(parts) * len(parts) or ACROSS
    figure, axes = plots.panels(len(panels), 2.5, across)
    orders = rows.groupby("regime")["order"].nunique()
    runs = {key_of(run.config)[:2]: run.config for run in results.runs}
    for ax, (regime, order, task, curves, part) in zip(axes, panels, strict=True):
        # If all runs have the same order, the title needn't name it: shading shows it.
        is_one = regime == "scratch" or orders[regime] == 1
        where = REGIMES[regime] if is_one else f"{REGIMES[regime]}: {order}"
        unit = " in units" if task == MEAN and units else ""
        title = where if task == WHOLE else f"{task}{unit}, {where}"
        ax.set_title(plots.escaped(_wrapped(title + part)), fontsize="medium")
        _draw_panel(ax, curves, rows.loc[rows["task"] == task, "value"], looks, levels.get(task))
        for block in planned_blocks(runs[regime, order], task):
            ax.axvspan(*block, color="0.93", zorder=0)
    figure.supxlabel("environment steps of all tasks", fontsize="medium")
    figure.supylabel(_wrapped(CURVES[measure], 26), fontsize="medium")
    plots.add_legend(figure)
    return figure


def _comparable(rows: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Leave out a run that is not done, if its network has one that is: it would cut the curve."""
    runs = pd.DataFrame([key_of(run.config) for run in results.runs], columns=RUN)
    rows = rows.merge(runs.assign(is_done=[run.is_done for run in results.runs]))
    others = rows.groupby(["regime", "order", "architecture"])["is_done"]
    return rows[rows["is_done"] | ~others.transform("any")]


def _means(rows: pd.DataFrame, units: Mapping[str, float]) -> pd.DataFrame:
    """Give rows with the mean over tasks, for runs that have several tasks."""
    values = rows["value"] / rows["task"].map(units).fillna(1.0)
    groups = rows.assign(value=values).groupby([*RUN, "step"], sort=False)["value"]
    return groups.mean()[groups.size() > 1].reset_index().assign(task=MEAN)


def _draw_panel(
    ax: Axes,
    curves: pd.DataFrame,
    values: pd.Series,
    looks: Mapping[str, Mapping[str, Any]],
    level: float | None,
) -> None:
    """Draw the means over seeds of some networks into a panel.

    :param values: all values that the vertical axis must have room for
    :param level: the random policy's value; None: not drawn
    """
    for name, seeds in curves.groupby("architecture", sort=False):
        # Only the steps that all seeds have.
        wide = seeds.pivot_table(index="step", columns="seed", values="value").dropna()
        steps = wide.index.to_numpy(float)
        values_SK = wide.to_numpy().T
        mean = values_SK.mean(0)
        interval = t_interval(values_SK)
        plots.plot_mean(ax, steps, mean, interval, str(name), looks[str(name)])
    ends = [values.min(), values.max()]
    if level is not None:
        ends.append(level)
        ax.axhline(level, color="0.35", linewidth=1, linestyle=":", label="random policy")
    # The axis has no room for whole intervals: those of few seeds would dwarf the curves.
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    ax.set_ylim(min(ends) - margin, max(ends) + margin)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_experts(results: Results) -> Figure | None:
    """Draw each expert's mean gate on each task at the end of training, as a mean over seeds.

    Experts are in the order of :func:`expert_weights`.

    :return: a panel per network, layer and way to mix tasks; None if no run has learned routers
    """
    panels = expert_weights(results)
    if not panels:
        return None
    longest = max(map(len, panels.values()))
    figure, axes = plots.panels(len(panels), 1.5 + 0.25 * longest, ACROSS)
    every = [weights.to_numpy().ravel() for weights in panels.values()]
    colors = plots.colors_of_gates(np.concatenate(every))
    for ax, (caption, weights) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(weights, aspect="auto", **colors)
        tasks = weights.index
        experts = weights.shape[1]
        if experts <= MOST_WRITTEN:
            plots.write_into(ax, image, plots.as_numbers(weights.to_numpy()), fontsize=7)
        ax.set_title(plots.escaped(_wrapped(caption)), fontsize="small")
        ax.set_yticks(range(len(tasks)), map(plots.escaped, tasks), fontsize="small")
        ax.set_xticks(range(0, experts, math.ceil(experts / MOST_WRITTEN)))
        ax.set_xlabel("experts, matched between seeds", fontsize="small")
    figure.colorbar(image, ax=axes, label="mean weight", shrink=0.8)
    return figure


def expert_weights(results: Results) -> dict[str, pd.DataFrame]:
    """Average the last gates over seeds; give a table of tasks by experts, by caption.

    Gates that never changed are left out: their routers don't learn.
    """
    found = defaultdict(list)
    for run in [run for run in results.runs if run.is_done]:
        config = run.config
        tasks = list(config.order if config.regime == "scratch" else config.games)
        where = " ".join((REGIMES[config.regime], *config.order))
        for name, (_, gates_KNE) in plots.measured(run.diagnostics, "gates").items():
            learns = not np.allclose(gates_KNE[:1], gates_KNE[-1:], equal_nan=True)
            if learns or len(gates_KNE) == 1:
                last = pd.DataFrame(gates_KNE[-1], config.games).loc[tasks].dropna(axis=1)
                found[f"{config.architecture.name} {name}, {where}"].append(last)
    return {
        caption: pd.DataFrame(matched_mean([*map(np.asarray, seeds)]), seeds[0].index)
        for caption, seeds in found.items()
    }


def matched_mean(seeds: Sequence[Array]) -> Array:
    """Average gates over seeds, (N, E) each, after matching the seeds' experts with each other.

    An expert's number is chance, and so is its sign where gates can be negative. So each seed's
    experts are assigned to those of the mean so far (Hungarian method) and take its signs, three
    times. Where experts join at a new task, seeds may differ in their number of experts: missing
    ones have gates of 0. Experts are sorted by the task on which their gate is largest.
    """
    most = max(each.shape[1] for each in seeds)
    padded = [np.pad(each, ((0, 0), (0, most - each.shape[1]))) for each in seeds]
    signs_E = np.where(padded[0].sum(axis=0) < 0, -1.0, 1.0)
    mean_NE = padded[0] * signs_E
    for _ in range(3):
        turned = []
        for each_NE in padded:
            alike_EE = mean_NE.T @ each_NE
            of_mean, order = linear_sum_assignment(-np.abs(alike_EE))
            signs_E = np.where(alike_EE[of_mean, order] < 0, -1.0, 1.0)
            turned.append(each_NE[:, order] * signs_E)
        mean_NE = np.mean(turned, axis=0)
    order_E = np.lexsort((-mean_NE.max(axis=0), mean_NE.argmax(axis=0)))
    return mean_NE[:, order_E]


def _wrapped(text: str, width: int = 36) -> str:
    # Five lines at most: the names of many tasks would leave a panel no room.
    return "\n".join(textwrap.wrap(text, width, max_lines=5, placeholder=" …"))
