"""Pictures of a run, from its folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt
from matplotlib.figure import Figure


def draw_gates(gates_NE: npt.ArrayLike, task_names: Sequence[str], title: str = "") -> Figure:
    """Draw the weight of each expert for each task.

    :param gates_NE: (tasks, experts)
    :param task_names: of the rows
    :param title: above the picture
    """
    import numpy as np

    gates = np.asarray(gates_NE, dtype=np.float64)
    figure = Figure(
        figsize=(1.2 + 0.9 * gates.shape[1], 1.2 + 0.5 * len(gates)), layout="constrained"
    )
    axes = figure.subplots()
    image = axes.imshow(gates, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_yticks(range(len(task_names)), task_names)
    axes.set_xticks(range(gates.shape[1]))
    axes.set_xlabel("expert")
    axes.set_title(title)
    for (row, column), gate in np.ndenumerate(gates):
        colour = "black" if gate > 0.6 else "white"
        axes.text(column, row, f"{gate:.2f}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, label="mean gate")
    return figure
