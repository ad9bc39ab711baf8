"""Pictures over the seeds of a study; those of a single run are in :mod:`sb3_moe.plots`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sb3_moe.networks import kind_of
from sb3_moe.plots.style import Look, as_written, look_of
from sb3_moe.study.report.facts import learned
from sb3_moe.study.report.judging import Finding
from sb3_moe.study.report.measures import shown
from sb3_moe.study.report.runs import Array, Run, on_shared_steps
from sb3_moe.study.spec.architectures import CALLED, heading, title

MILLION = 1e6
#: Panels side by side, at most.
ACROSS = 4


def looks_of(architectures: Sequence[str]) -> dict[str, Look]:
    """Give each architecture a colour and a dash of its own."""
    return {name: look_of(k) for k, name in enumerate(architectures)}


def sequences(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """List the regimes and orders, as they come."""
    return list(dict.fromkeys((run.cell.regime, run.cell.order) for run in runs))


def architectures(runs: Sequence[Run]) -> list[str]:
    """List the columns, as they come."""
    return list(dict.fromkeys(run.cell.architecture.name for run in runs))


def learning_curves(runs: Sequence[Run], random: Mapping[str, float]) -> Figure:
    """Draw the return of each game against steps: panels of every game, per regime and order.

    Runs of one game alone share a row: of the others they have nothing to show.

    Lines are means over seeds, bands go from the least to the greatest seed, shading marks the
    steps in which the game was trained, and the dotted line is the random policy.
    """
    rows: dict[tuple[str, tuple[str, ...]], list[Run]] = {}
    for run in runs:
        alone = run.cell.regime == "scratch"
        rows.setdefault((run.cell.regime, () if alone else run.cell.order), []).append(run)
    games = runs[0].cell.games
    looks = looks_of(architectures(runs))
    figure, panels = _panels(len(rows), games)
    for ((regime, order), members), line in zip(rows.items(), panels, strict=True):
        for game, ax in zip(games, line, strict=True):
            shown_here = [r for r in members if regime != "scratch" or r.cell.order == (game,)]
            _curves(ax, shown_here, game, random.get(game), looks)
        line[0].set_ylabel(_wrapped(as_written(heading(regime, order))) + "\nreturn")
        for ax in line[ACROSS::ACROSS]:
            ax.set_ylabel("return")
    for ax in panels[-1][-ACROSS:]:
        ax.set_xlabel("million steps" + (", all tasks together" if len(games) > 1 else ""))
    _legend(figure, [ax for line in panels for ax in line])
    return figure


def _panels(number: int, games: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with so many times a panel per game, at most :data:`ACROSS` side by side.

    Panels of one game have one scale, and its name on top, once where a column is one game's.
    """
    columns, lines = min(ACROSS, len(games)), -(-len(games) // ACROSS)
    size = 3.4 * columns, (2.3 if lines == 1 else 2.5) * number * lines + 0.3
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(number * lines, columns, squeeze=False)
    panels = [list(part.flat)[: len(games)] for part in np.split(grid, number)]
    for ax in {*grid.flat} - {ax for line in panels for ax in line}:
        ax.remove()
    for k, line in enumerate(panels):
        for game, ax, first in zip(games, line, panels[0], strict=True):
            if k:
                ax.sharey(first)
            if not k or lines > 1:
                ax.set_title(as_written(game))
    return figure, panels


def _curves(
    ax: Axes,
    runs: Sequence[Run],
    game: str,
    random: float | None,
    looks: Mapping[str, Look],
) -> None:
    """Draw one game in one sequence."""
    if runs and runs[0].cell.order:
        for start, end in runs[0].blocks(game):
            ax.axvspan(start / MILLION, end / MILLION, color="0.93", zorder=0)
    for name, look in looks.items():
        curves = [run for run in runs if run.cell.architecture.name == name]
        if curves:
            _band(ax, [(run.steps, run.returns(game)) for run in curves], name, look)
    if random is not None:
        ax.axhline(random, color="0.35", linewidth=1, linestyle=":", label="random policy")
    _plain(ax)


def _band(ax: Axes, curves: Sequence[tuple[Any, Array]], name: str, look: Look) -> None:
    """Draw the mean over seeds and the range of the seeds, where all of them have a value.

    :param curves: steps and values of each seed
    """
    steps, values_SK = on_shared_steps(curves)
    x = steps / MILLION
    ax.plot(x, values_SK.mean(axis=0), label=as_written(title(name)), linewidth=1.6, **look.style)
    if len(values_SK) > 1:
        low, high = values_SK.min(axis=0), values_SK.max(axis=0)
        ax.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)


def dormant_neurons(runs: Sequence[Run]) -> Figure | None:
    """Draw the fraction of dormant neurons against steps.

    :return: a panel per regime and order; None if no run has measured it
    """
    looks = looks_of(architectures(runs))
    found = {id(run): curve for run in runs if (curve := run.inside("dormant")) is not None}
    runs = [run for run in runs if id(run) in found]
    if not runs:
        return None
    columns = sequences(runs)
    figure = Figure(figsize=(max(6.8, 3.2 * len(columns)), 2.9), layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for (regime, order), ax in zip(columns, axes, strict=True):
        for name, look in looks.items():
            curves = [
                found[id(run)]
                for run in runs
                if (run.cell.regime, run.cell.order) == (regime, order)
                and run.cell.architecture.name == name
            ]
            if curves:
                _band(ax, [(steps, 100 * share) for steps, share in curves], name, look)
        ax.set_title(_wrapped(as_written(heading(regime, order))), fontsize="medium")
        ax.set_xlabel("million steps")
        _plain(ax)
    axes[0].set_ylabel("dormant neurons, %")
    axes[0].set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def expert_weights(runs: Sequence[Run]) -> Figure | None:
    """Draw how much of each game every expert serves at the end of training, mean over seeds.

    Which expert is the first is chance, so each seed's are sorted by their weight for the first
    game before the seeds are averaged.

    :return: a panel per architecture, layer, regime and order; None if no run has learned routers
    """
    panels = expert_panels(runs)
    if not panels:
        return None
    columns = min(ACROSS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.1 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    image = None
    games = [as_written(game) for game in runs[0].cell.games]
    for ax, (caption, weights_NE) in zip(axes.flat, panels, strict=False):
        image = ax.imshow(weights_NE, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        _annotate(ax, weights_NE)
        ax.set_title(as_written(caption), fontsize="small")
        ax.set_yticks(range(len(weights_NE)), games, fontsize="small")
        ax.set_xticks(range(weights_NE.shape[1]))
        ax.set_xlabel(f"experts by weight for {games[0]}", fontsize="small")
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=axes, label="mean weight", shrink=0.8)
    return figure


def expert_panels(runs: Sequence[Run]) -> list[tuple[str, Array]]:
    """Average the last gates over seeds, by architecture, layer, regime and order.

    Where experts join at a new task a seed may have more of them: what another lacks counts as 0.

    :return: captions, and what belongs below them
    """
    # By name: captions of two networks may be alike.
    found: dict[tuple[str, str], list[Array]] = {}
    for run in runs:
        for measured, gates_KNE in run.diagnostics.items():
            layer = measured.removeprefix("gates/")
            tower = kind_of(layer)
            cell = run.cell
            if layer != measured and learned(cell.architecture, tower, gates_KNE, cell.algorithm):
                where = _wrapped(heading(run.cell.regime, run.cell.order), 34)
                named = f"{CALLED[tower]} ({layer})" if tower in CALLED else layer
                caption = f"{title(run.cell.architecture.name)}, {named}\n{where}"
                last_NE = gates_KNE[-1][:, np.isfinite(gates_KNE[-1]).all(axis=0)]
                if not last_NE.size:  # it diverged
                    continue
                key = run.cell.architecture.name, caption
                found.setdefault(key, []).append(last_NE[:, np.argsort(-last_NE[0])])
    return [(caption, np.mean(_as_wide(gates), axis=0)) for (_, caption), gates in found.items()]


def _as_wide(gates: Sequence[Array]) -> Array:
    """Stack gates (N, E) of S seeds, those of fewer experts filled up with zeros, (S, N, E)."""
    most = max(gates_NE.shape[1] for gates_NE in gates)
    return np.stack([np.pad(each, ((0, 0), (0, most - each.shape[1]))) for each in gates])


def _annotate(ax: Axes, weights_NE: Array) -> None:
    """Write each number into its field, dark on light and light on dark."""
    for (row, column), value in np.ndenumerate(weights_NE):
        colour = "black" if value > 0.6 else "white"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)


def differences(findings: Sequence[Finding]) -> Figure | None:
    """Draw the difference of every primary contrast with its interval.

    Shading marks what is smaller than the smallest effect that matters.
    """
    rows = [(f.claim, row) for f in findings for row in f.rows if row.contrast.primary]
    if not rows:
        return None
    figure = Figure(figsize=(7.5, 0.42 * len(rows) + 1.2), layout="constrained")
    ax = figure.subplots()
    for k, (_, row) in enumerate(rows):
        small = row.contrast.smallest_effect
        ax.fill_betweenx([k - 0.4, k + 0.4], -small, small, color="0.9", linewidth=0)
        estimate = row.estimate
        ax.plot([estimate.low, estimate.high], [k, k], color="#0072B2", linewidth=2)
        ax.plot(estimate.mean, k, "o", color="#0072B2")
    ax.axvline(0, color="0.35", linewidth=1)
    ax.set_yticks(range(len(rows)), [as_written(f"{c.name}: {shown(row.game)}") for c, row in rows])
    ax.invert_yaxis()
    ax.set_xlabel("difference over seeds, with its interval")
    _plain(ax)
    return figure


def _wrapped(text: str, width: int = 26) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Put a legend below, as wide as the figure, which grows by its height."""
    # Each once, from all panels: the first may lack a network whose run is not done.
    entries: dict[tuple[str, str, str], Line2D] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            assert isinstance(handle, Line2D)
            look = str(handle.get_color()), str(handle.get_linestyle())
            entries.setdefault((label, *look), handle)
    labels = [label for label, *_ in entries]
    width, height = figure.get_size_inches()
    # In inches: a line's sample, and a letter of the default font.
    columns = int(width / (0.6 + 0.085 * max(map(len, labels))))
    columns = min(max(columns, 1), 4, len(labels))
    figure.set_figheight(height + 0.2 * -(-len(labels) // columns))
    figure.legend(list(entries.values()), labels, loc="outside lower center", ncols=columns)
