"""Every picture that a run's folder has the measurements for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from sb3_moe.metrics import load_scores
from sb3_moe.plots.inside import (
    draw_dormant,
    draw_gates_over_time,
    draw_last_gates,
    load_diagnostics,
)
from sb3_moe.plots.scores import draw_forgetting, draw_learning_curves, draw_transfer


def save_figures(
    folder: str | Path, target: str | Path | None = None, random: Mapping[str, float] | None = None
) -> list[Path]:
    """Draw what a run measured, as PNG files.

    :param folder: of the run
    :param target: where the files go; None: ``figures`` in the run's folder
    :param random: return of a random agent by task, for the learning curves
    :return: the files
    :raises ValueError: if the folder has neither scores nor diagnostics
    """
    folder = Path(folder)
    target = folder / "figures" if target is None else Path(target)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in _drawings(folder, random).items():
        paths.append(target / f"{name}.png")
        draw(folder).savefig(paths[-1], dpi=150)
    return paths


def _drawings(
    folder: Path, random: Mapping[str, float] | None
) -> dict[str, Callable[[Path], Figure]]:
    drawings: dict[str, Callable[[Path], Figure]] = {}
    has_diagnostics = (folder / "diagnostics.npz").exists()
    if (folder / "scores.npz").exists() or not has_diagnostics:
        drawings["learning_curves"] = partial(draw_learning_curves, random=random)
        if load_scores(folder).blocks:
            drawings |= {"transfer": draw_transfer, "forgetting": draw_forgetting}
    if has_diagnostics:
        names = list(load_diagnostics(folder))
        if any(name.startswith("dormant/") for name in names):
            drawings["dormant"] = draw_dormant
        for mixture in [n.removeprefix("gates/") for n in names if n.startswith("gates/")]:
            drawings[f"gates-{mixture}"] = partial(draw_gates_over_time, mixture=mixture)
            drawings[f"last-gates-{mixture}"] = partial(draw_last_gates, mixture=mixture)
    return drawings
