"""A run as its folder has it: what it was, and its values at each evaluation.

Shapes: K evaluations, N games.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_moe import measures as metrics
from sb3_moe.study.spec.config import CellConfig

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """A run as its folder has it.

    :param cell: what it was
    :param scores: the arrays of ``scores.npz``
    :param diagnostics: the arrays of ``diagnostics.npz``, empty if it has none
    """

    cell: CellConfig
    scores: Mapping[str, npt.NDArray[Any]]
    diagnostics: Mapping[str, npt.NDArray[Any]]

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Global step of each evaluation, (K,)."""
        return self.scores["steps"]

    def inside(self, kind: str) -> tuple[npt.NDArray[Any], Array] | None:
        """Give what was measured of the network, averaged over its layers, or over its towers.

        :param kind: what stands before the layer's name, such as ``"dormant"``
        :return: steps and values, (K',) each, of the K' times that it was looked at: callbacks that
            share the file may look at other steps; None if it never was
        """
        found = [
            values
            for name, values in self.diagnostics.items()
            if name.startswith(f"{kind}/") and np.ndim(values) == 1
        ]
        if not found:
            return None
        mean = np.mean(np.stack(found), axis=0)
        seen = np.isfinite(mean)
        return (self.diagnostics["steps"][seen], mean[seen]) if seen.any() else None

    def returns(self, game: str) -> Array:
        """Mean return of a game at each evaluation, (K,)."""
        return np.asarray(self.scores["score"][:, self.cell.games.index(game)], dtype=np.float64)

    def success(self, game: str) -> Array:
        """Share of a game's episodes that succeeded at each evaluation, (K,), NaN if unsaid."""
        if "successes" not in self.scores:
            return np.full(len(self.steps), np.nan)
        column = self.cell.games.index(game)
        return np.asarray(self.scores["successes"][:, column].mean(axis=1), dtype=np.float64)

    def blocks(self, game: str) -> list[tuple[int, int]]:
        """The stretches of global steps in which a game was trained."""
        cell = self.cell
        if not cell.order:
            return [(0, cell.total_steps)]
        sequence = cell.order * cell.cycles
        length = cell.steps_per_task
        return [(k * length, (k + 1) * length) for k, g in enumerate(sequence) if g == game]

    def area(self, values: Array, block: tuple[int, int]) -> float:
        """Mean of a value over a stretch.

        :param values: one for each evaluation, (K,)
        :param block: the stretch's first and last global step
        :return: NaN where the run was stopped before that end, or any value is NaN
        """
        start, end = block
        if self.steps[-1] < end or not np.isfinite(values).all():
            return float("nan")
        return float(metrics.area(values[:, None], self.steps, start, end)[0])


def with_silent_failures(runs: Sequence[Run]) -> list[Run]:
    """Count episodes that say nothing of success as failures, in games of which any run's speak.

    :param runs: of one study: one that never succeeded may hold no word of success
    """
    spoken = {
        game
        for run in runs
        if "successes" in run.scores
        for k, game in enumerate(run.cell.games)
        if np.isfinite(run.scores["successes"][:, k]).any()
    }
    return [_spoken_for(run, spoken) if "successes" in run.scores else run for run in runs]


def _spoken_for(run: Run, spoken: Collection[str]) -> Run:
    columns = [k for k, game in enumerate(run.cell.games) if game in spoken]
    successes = np.array(run.scores["successes"])
    successes[:, columns] = np.nan_to_num(successes[:, columns])
    return replace(run, scores={**run.scores, "successes": successes})


def on_shared_steps(
    curves: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Stack values of S runs at the steps that all of them have.

    Runs end early, and some schedules switch at other steps with each seed.

    :param curves: steps (K,) and values (K, ...) of each run, K its own
    :return: steps (K',) and values (S, K', ...)
    """
    shared = functools.reduce(np.intersect1d, [steps for steps, _ in curves])
    return shared, np.stack([values[np.isin(steps, shared)] for steps, values in curves])
