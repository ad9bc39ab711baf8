"""Every figure that a run's folder has the measurements for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from sb3_moe.measures import load_scores
from sb3_moe.plots.inside import (
    draw_dormant,
    draw_gates_over_time,
    draw_last_gates,
    load_diagnostics,
)
from sb3_moe.plots.scores import draw_forgetting, draw_learning_curves, draw_transfer
from sb3_moe.saving.files import atomic

#: For screens, for pages, and for papers.
FORMATS = ("png", "svg", "pdf")
# What a file says of when it was made, and by what, would make it another one each time.
_METADATA = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save_figure(
    figure: Figure, path: str | Path, formats: Sequence[str] = FORMATS, dpi: int = 150
) -> list[Path]:
    """Write a figure, once for each format; the same figure gives the same bytes.

    :param figure: of matplotlib
    :param path: of the files, without an ending
    :param formats: of ``"png"``, ``"svg"`` and ``"pdf"``
    :param dpi: of the PNG
    :return: the files
    :raises ValueError: if a format is another one, or there is none
    """
    if not formats or set(formats) - set(FORMATS):
        raise ValueError(f"`formats` must be among {', '.join(FORMATS)}, got {formats!r}")
    files = [Path(f"{path}.{each}") for each in formats]
    # Laid out once, not once for each format.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for file, each in zip(files, formats, strict=True):
        with atomic(file) as temporary, matplotlib.rc_context({"svg.hashsalt": file.stem}):
            figure.savefig(temporary, format=each, dpi=dpi, metadata=_METADATA[each])
    return files


def save_figures(
    folder: str | Path,
    target: str | Path | None = None,
    random: Mapping[str, float] | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw what a run measured.

    :param folder: of the run
    :param target: where the files go; None: ``figures`` in the run's folder
    :param random: return of a random agent by task, for the learning curves
    :param formats: see :func:`save_figure`
    :return: the files
    :raises ValueError: if the folder has neither scores nor diagnostics, or a format is unknown
    """
    folder = Path(folder)
    target = folder / "figures" if target is None else Path(target)
    target.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, draw in _drawings(folder, random).items():
        paths += save_figure(draw(folder), target / name, formats)
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
