"""Pictures of what goes on inside the networks.

Shapes: K measurements, N tasks, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from sb3_moe.plots.style import (
    Array,
    Picture,
    as_numbers,
    as_written,
    label_steps,
    legend_beside,
    line,
    mark_switches,
    matrix,
)
from sb3_moe.saving.files import read_npz

#: Experts that have their number beside one task's row, at most: for more there is no room.
MOST_NUMBERED = 6


def draw_dormant(folder: str | Path) -> Figure:
    """Draw the share of dormant neurons of every hidden layer over training.

    :param folder: of a run with ``PlasticityCallback(log_path=folder)``
    :raises ValueError: if the folder has no diagnostics
    """
    saved = load_diagnostics(folder)
    layers = _names(saved, "dormant", "PlasticityCallback")
    figure = Picture(figsize=(5.8, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, layer in enumerate(layers):
        line(axes, *_measured(saved, f"dormant/{layer}"), layer, i)
    mark_switches(axes, folder)
    axes.set_ylim(bottom=-0.01)
    axes.set_ylabel("dormant neurons (share)")
    label_steps(axes)
    legend_beside(figure, "layer")
    return figure


def draw_gates_over_time(folder: str | Path, mixture: str | None = None) -> Figure:
    """Draw the weight of each expert for each task over training.

    :param folder: of a run with ``RoutingCallback(log_path=folder)``
    :param mixture: as ``"pi.middle"``; None: the first
    :raises ValueError: if the folder has no gates, or none of that mixture
    """
    saved = load_diagnostics(folder)
    mixture = _mixture(saved, mixture)
    steps_K, gates_KNE = _measured(saved, f"gates/{mixture}")
    names, experts = saved["task_names"].tolist(), gates_KNE.shape[2]
    figure = Picture(figsize=(7.0, 1.2 + 1.3 * len(names)), layout="constrained")
    rows = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    edges = _edges(steps_K)
    low, high, cmap = colours_of_gates(gates_KNE)
    colours = {"cmap": cmap, "vmin": low, "vmax": high}
    for k, axes in enumerate(rows):
        image = axes.pcolormesh(
            edges,
            np.arange(experts + 1) - 0.5,
            gates_KNE[:, k].T,
            **colours,
        )
        axes.set_yticks(range(0, experts, -(-experts // MOST_NUMBERED)))
        axes.set_ylabel("expert")
        axes.set_title(as_written(names[k]), loc="left", fontsize="medium")
        mark_switches(axes, folder, "white")
    label_steps(rows[-1])
    figure.colorbar(image, ax=rows.tolist(), label="mean gate")
    figure.suptitle(f"Experts of {mixture} by task", fontsize="medium")
    return figure


def draw_last_gates(folder: str | Path, mixture: str | None = None) -> Figure:
    """Draw which expert serves which task at the end of training.

    :param folder: of a run with ``RoutingCallback(log_path=folder)``
    :param mixture: as ``"pi.middle"``; None: the first
    :raises ValueError: if the folder has no gates, or none of that mixture
    """
    saved = load_diagnostics(folder)
    name = _mixture(saved, mixture)
    last_NE = _measured(saved, f"gates/{name}")[1][-1]
    there_E = np.isfinite(last_NE).any(axis=0)  # there were more, or there will be
    return draw_gates(last_NE[:, there_E], saved["task_names"].tolist(), f"Experts of {name}")


def draw_gates(gates_NE: npt.ArrayLike, task_names: Sequence[str], title: str = "") -> Figure:
    """Draw the weight of each expert for each task.

    :param gates_NE: (N, E)
    :param task_names: of the rows
    :param title: above the picture
    :raises ValueError: if there are no weights, or not as many names as rows
    """
    gates = np.asarray(gates_NE, dtype=np.float64)
    if gates.ndim != 2 or gates.size == 0:
        raise ValueError(
            f"`gates_NE` must be (tasks, experts) and not empty, got shape {gates.shape}"
        )
    if len(task_names) != len(gates):
        raise ValueError(
            f"`task_names` must be one for each row of `gates_NE`, {len(gates)}, "
            f"got {len(task_names)}"
        )
    experts = [str(k) for k in range(gates.shape[1])]
    labels = as_numbers(gates, "z.2f")
    low, high, cmap = colours_of_gates(gates)
    figure = matrix(gates, labels, task_names, experts, (low, high), cmap, "mean gate")
    figure.axes[0].set_xlabel("expert")
    figure.axes[0].set_title(title)
    return figure


def colours_of_gates(gates: npt.NDArray[Any]) -> tuple[float, float, str]:
    """Return the ends and the name of the colours: of both signs where weights are, as MOORE's.

    :param gates: all that have the same colours, of any shape
    """
    there = np.isfinite(gates)
    low, high = (float(f(gates, initial=0.0, where=there)) for f in (np.min, np.max))
    size = max(-low, high)
    return (-size, size, "PuOr_r") if low < 0 else (0.0, high, "cividis")


def load_diagnostics(folder: str | Path) -> dict[str, npt.NDArray[Any]]:
    """Read what the probes of a run measured.

    :raises ValueError: if there is nothing
    """
    path = Path(folder) / "diagnostics.npz"
    if not path.exists():
        raise ValueError(
            f"{folder} has no diagnostics.npz; train with PlasticityCallback(log_path=folder) or "
            "RoutingCallback(log_path=folder) to get one"
        )
    return read_npz(path)


def _names(saved: Mapping[str, npt.NDArray[Any]], kind: str, callback: str) -> list[str]:
    """Return the layers or mixtures that a measure was taken of."""
    names = [name.removeprefix(f"{kind}/") for name in saved if name.startswith(f"{kind}/")]
    if not names:
        raise ValueError(
            f"diagnostics.npz has no {kind}; train with {callback}(log_path=folder) to get them"
        )
    return names


def _measured(saved: Mapping[str, npt.NDArray[Any]], name: str) -> tuple[Array, Array]:
    """Return the steps at which something was measured, and the values, NaN of what was missing."""
    there = was_measured(saved[name])
    return saved["steps"][there].astype(np.float64), saved[name][there]


def was_measured(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Say when something was measured: callbacks that share a file may look at other steps.

    :param values: of K steps at which any callback looked, (K, ...)
    :return: (K,)
    """
    return np.isfinite(values).any(axis=tuple(range(1, values.ndim)))


def _mixture(saved: Mapping[str, npt.NDArray[Any]], mixture: str | None) -> str:
    names = _names(saved, "gates", "RoutingCallback")
    if mixture is not None and mixture not in names:
        raise ValueError(f"`mixture` must be one of {names}, got {mixture!r}")
    return mixture or names[0]


def _edges(steps_K: Array) -> Array:
    """Return the borders half way between measurements."""
    if len(steps_K) == 1:
        return np.array([steps_K[0] - 0.5, steps_K[0] + 0.5])
    middles = (steps_K[1:] + steps_K[:-1]) / 2
    return np.concatenate([steps_K[:1], middles, steps_K[-1:]])
