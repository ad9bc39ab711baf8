"""Pictures over the seeds of a study; those of a single run are in :mod:`sb3_moe.plots`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from sb3_moe.networks import kind_of
from sb3_moe.plots.inside import colours_of_gates, was_measured
from sb3_moe.plots.style import Look, as_numbers, as_written, look_of, write_into
from sb3_moe.study.report.facts import learned
from sb3_moe.study.report.judging import Finding, primary_rows
from sb3_moe.study.report.runs import Array, Run, on_shared_steps
from sb3_moe.study.spec.architectures import CALLED, heading, titles

MILLION = 1e6
#: Of matplotlib's default font, in inches: a letter, a line, and a line's sample in a legend.
LETTER, LINE, SAMPLE = 0.085, 0.2, 0.6
#: Panels side by side, at most; and how wide these are together, in inches.
ACROSS, WIDEST = 4, 14
#: Experts in a panel, at most, for whose numbers there is room.
MOST_WRITTEN = 12


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
    looks, called = looks_of(architectures(runs)), titles(architectures(runs))
    figure, panels = _panels(len(rows), games)
    for ((regime, order), members), line in zip(rows.items(), panels, strict=True):
        for game, ax in zip(games, line, strict=True):
            shown_here = [r for r in members if regime != "scratch" or r.cell.order == (game,)]
            _curves(ax, shown_here, game, random.get(game), looks, called)
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
    names = [as_written(_wrapped(game)) for game in games]
    taller = LINE * max(name.count("\n") for name in names) * (1 if lines == 1 else number * lines)
    size = 3.4 * columns, (2.3 if lines == 1 else 2.5) * number * lines + 0.3 + taller
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(number * lines, columns, squeeze=False)
    panels = [list(part.flat)[: len(games)] for part in np.split(grid, number)]
    for ax in {*grid.flat} - {ax for line in panels for ax in line}:
        ax.remove()
    for k, line in enumerate(panels):
        for name, ax, first in zip(names, line, panels[0], strict=True):
            if k:
                ax.sharey(first)
            if not k or lines > 1:
                ax.set_title(name)
    return figure, panels


def _curves(
    ax: Axes,
    runs: Sequence[Run],
    game: str,
    random: float | None,
    looks: Mapping[str, Look],
    called: Mapping[str, str],
) -> None:
    """Draw one game in one sequence."""
    if runs and runs[0].cell.order:
        for start, end in runs[0].blocks(game):
            ax.axvspan(start / MILLION, end / MILLION, color="0.93", zorder=0)
    for name, look in looks.items():
        curves = [run for run in runs if run.cell.architecture.name == name]
        if curves:
            _band(ax, [(run.steps, run.returns(game)) for run in curves], called[name], look)
    if random is not None:
        ax.axhline(random, color="0.35", linewidth=1, linestyle=":", label="random policy")
    _plain(ax)


def _band(ax: Axes, curves: Sequence[tuple[Any, Array]], label: str, look: Look) -> None:
    """Draw the mean over seeds and the range of the seeds, where all of them have a value.

    :param curves: steps and values of each seed
    """
    steps, values_SK = on_shared_steps(curves)
    x = steps / MILLION
    ax.plot(x, values_SK.mean(axis=0), label=as_written(label), linewidth=1.6, **look.style)
    if len(values_SK) > 1:
        low, high = values_SK.min(axis=0), values_SK.max(axis=0)
        ax.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)


def dormant_neurons(runs: Sequence[Run]) -> Figure | None:
    """Draw the fraction of dormant neurons against steps.

    :return: a panel per regime and order; None if no run has measured it
    """
    looks, called = looks_of(architectures(runs)), titles(architectures(runs))
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
                _band(ax, [(steps, 100 * share) for steps, share in curves], called[name], look)
        ax.set_title(_wrapped(as_written(heading(regime, order))), fontsize="medium")
        ax.set_xlabel("million steps")
        _plain(ax)
    axes[0].set_ylabel("dormant neurons, %")
    axes[0].set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def expert_weights(runs: Sequence[Run]) -> Figure | None:
    """Draw how much of each game every expert serves at the end of training, mean over seeds.

    Experts are in the order of :func:`expert_panels`. Numbers are written where there is room.

    :return: a panel per architecture, layer, regime and order; None if no run has learned routers
    """
    panels = expert_panels(runs)
    if not panels:
        return None
    games = {game: as_written(_wrapped(game)) for game in runs[0].cell.games}
    lines = [line for game in games.values() for line in game.split("\n")]
    most = max(panel.weights_NE.shape[1] for panel in panels)
    width = max(2.7, 0.36 * min(most, MOST_WRITTEN))
    columns = min(ACROSS, len(panels), int(WIDEST / width))
    rows = -(-len(panels) // columns)
    height = max(2.1, 1.2 + 0.06 * len(games) + 0.17 * len(lines))
    size = width * columns + 0.07 * max(map(len, lines)) + 0.8, height * rows + 0.3
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    low, high, cmap = colours_of_gates(np.concatenate([p.weights_NE.ravel() for p in panels]))
    for k, (ax, (caption, shown, weights_NE)) in enumerate(zip(axes.flat, panels, strict=False)):
        image = ax.imshow(weights_NE, cmap=cmap, vmin=low, vmax=high, aspect="auto")
        experts = weights_NE.shape[1]
        if experts <= MOST_WRITTEN:
            write_into(ax, image, as_numbers(weights_NE, "z.2f"), fontsize=7)
        title_lines = [_wrapped(line, int(13 * width)) for line in caption.split("\n")]
        ax.set_title(as_written("\n".join(title_lines)), fontsize="small")
        # Those on the left name the rows of all beside them that have the same.
        named = k % columns == 0 or shown != panels[k - k % columns].games
        rows_named = [games[game] if named else "" for game in shown]
        ax.set_yticks(range(len(shown)), rows_named, fontsize="small")
        ax.set_xticks(range(0, experts, -(-experts // MOST_WRITTEN)))
        sorting = f"experts, by the size of their weight for {shown[0]}"
        sorting += ", which is turned above 0" if low < 0 else ""
        ax.set_xlabel(as_written(_wrapped(sorting, int(13 * width))), fontsize="small")
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_axis_off()
    figure.colorbar(image, ax=axes, label="mean weight", shrink=0.8)
    return figure


class Panel(NamedTuple):
    """How much each expert of a layer counts for each game."""

    caption: str
    games: tuple[str, ...]
    weights_NE: Array


def expert_panels(runs: Sequence[Run]) -> list[Panel]:
    """Average the last gates over seeds, by architecture, layer, regime and order.

    An expert's number is chance, and so is its sign where weights have both. So each seed's experts
    are sorted by the size of their weight for the first game, and turned to have it above zero.
    Where experts join at a new task a seed may have more of them: what another lacks counts as 0.
    Of a run of one game alone, the others' weights mean nothing and are left out.
    """
    found: dict[tuple[str, tuple[str, ...]], list[Array]] = {}
    called = titles(architectures(runs))
    for run in runs:
        cell = run.cell
        games = cell.order if cell.regime == "scratch" else cell.games
        where = _wrapped(heading(cell.regime, cell.order), 34)
        for layer, gates_KNE in _gates(run).items():
            tower = kind_of(layer)
            last_NE = gates_KNE[-1][[cell.games.index(game) for game in games]]
            last_NE = last_NE[:, np.isfinite(last_NE).all(axis=0)]
            if last_NE.size and learned(cell.architecture, tower, gates_KNE, cell.algorithm):
                named = f"{CALLED[tower]} ({layer})" if tower in CALLED else layer
                caption = f"{called[cell.architecture.name]}, {named}\n{where}"
                found.setdefault((caption, games), []).append(_in_order(last_NE))
    return [
        Panel(caption, games, np.mean(_as_wide(gates), axis=0))
        for (caption, games), gates in found.items()
    ]


def _gates(run: Run) -> dict[str, Array]:
    """Give the gates of each layer at those evaluations that measured them, (K, N, E)."""
    return {
        name.removeprefix("gates/"): values[there]
        for name, values in run.diagnostics.items()
        if name.startswith("gates/") and (there := was_measured(values)).any()
    }


def _in_order(gates_NE: Array) -> Array:
    """Sort experts by the size of their weight in the first row, and turn it above zero."""
    signs_E = np.where(gates_NE[0] < 0, -1.0, 1.0)
    return (gates_NE * signs_E)[:, np.argsort(-np.abs(gates_NE[0]))]


def _as_wide(gates: Sequence[Array]) -> Array:
    """Stack gates (N, E) of S seeds, those of fewer experts filled up with zeros, (S, N, E)."""
    most = max(gates_NE.shape[1] for gates_NE in gates)
    return np.stack([np.pad(each, ((0, 0), (0, most - each.shape[1]))) for each in gates])


def differences(findings: Sequence[Finding]) -> Figure | None:
    """Draw the difference of every primary contrast with its interval: a panel for each measure.

    Shading marks what is smaller than the smallest effect that matters.
    """
    panels = {
        measure: [(as_written(_wrapped(label, 44)), row) for label, row in rows]
        for measure, rows in primary_rows(findings).items()
    }
    if not panels:
        return None
    lines = [label.split("\n") for rows in panels.values() for label, _ in rows]
    height = 0.25 + 0.17 * max(map(len, lines))
    size = (
        4.5 + 0.08 * max(35, *(len(line) for each in lines for line in each)),
        height * len(lines) + 0.8 * len(panels) + 0.3,
    )
    figure = Figure(figsize=size, layout="constrained")
    ratios = [len(rows) for rows in panels.values()]
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=ratios)[:, 0]
    for ax, (measure, rows) in zip(axes, panels.items(), strict=True):
        for k, (_, row) in enumerate(rows):
            small = row.contrast.smallest_effect
            ax.fill_betweenx([k - 0.4, k + 0.4], -small, small, color="0.9", linewidth=0)
            estimate = row.estimate
            ax.plot([estimate.low, estimate.high], [k, k], color="#0072B2", linewidth=2)
            ax.plot(estimate.mean, k, "o", color="#0072B2")
        ax.axvline(0, color="0.35", linewidth=1)
        ax.set_yticks(range(len(rows)), [label for label, _ in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        # Those of small differences are long: more of them would lie upon each other.
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:z.4g}"))
        ax.set_xlabel(as_written(f"difference in {measure} over seeds, with its interval"))
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
    columns = int(width / (SAMPLE + LETTER * max(map(len, labels))))
    columns = min(max(columns, 1), 4, len(labels))
    labels = [_wrapped(label, int((width / columns - SAMPLE) / LETTER)) for label in labels]
    lines = sum(1 + label.count("\n") for label in labels)
    figure.set_figheight(height + LINE * -(-lines // columns))
    figure.legend(list(entries.values()), labels, loc="outside lower center", ncols=columns)
