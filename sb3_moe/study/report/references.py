"""What the measures of a run are put beside: random play, and the network from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sb3_moe.study.report.runs import Run
from sb3_moe.study.spec.config import CellConfig


def openers(cells: Sequence[CellConfig]) -> list[int]:
    """Find the runs whose first block is that of a network from scratch.

    Where the regime ``"scratch"`` has runs they alone count: a block that opens a sequence may have
    another learning rate or exploration.

    :return: their places
    """
    alone = [i for i, cell in enumerate(cells) if cell.regime == "scratch"]
    return [
        i
        for i in alone or range(len(cells))
        if cells[i].order and cells[i].architecture.start_from is None
    ]


class References:
    """What a return is compared with: the random policy, and the same network from scratch.

    The first of the :func:`openers` of a study counts, be it done or not: what a run is put beside
    stays the same while others are still to come.

    :param runs: that there are
    :param random: mean return of the random policy, by game
    :param cells: of the study; None: those of the runs
    """

    def __init__(
        self,
        runs: Sequence[Run],
        random: Mapping[str, float],
        cells: Sequence[CellConfig] | None = None,
    ) -> None:
        self.random = random
        self._areas: dict[tuple[str, int, str], float] = {}
        self._ends: dict[tuple[str, int, str], float] = {}
        cells = [run.cell for run in runs] if cells is None else cells
        found = {run.cell.name: run for run in runs}
        # Backwards, so that the first one stays.
        first = {_key(cells[i]): cells[i].name for i in reversed(openers(cells))}
        for key, name in first.items():
            if name in found:
                self._add(key, found[name])

    def _add(self, key: tuple[str, int, str], run: Run) -> None:
        """Take a block that nothing came before."""
        if run.steps[-1] < run.cell.steps_per_task:
            return
        game = run.cell.order[0]
        block = (0, run.cell.steps_per_task)
        self._areas[key] = run.area(run.returns(game), block)
        last = run.steps <= block[1]
        self._ends[key] = float(run.returns(game)[last][-1])

    def scratch_area(self, architecture: str, seed: int, game: str) -> float:
        """Area of a game's curve from scratch; NaN if there is no such run."""
        return self._areas.get((architecture, seed, game), float("nan"))

    def normalised(self, value: float, seed: int, game: str) -> float:
        """Put a return between the random policy's (0) and dense from scratch's (1)."""
        random = self.random.get(game, float("nan"))
        return ratio(value - random, self._ends.get(("dense", seed, game), np.nan) - random)


def _key(cell: CellConfig) -> tuple[str, int, str]:
    return cell.architecture.name, cell.seed, cell.order[0]


def ratio(numerator: float, denominator: float) -> float:
    """Divide, or say that there is nothing to divide by: a reference no better than random."""
    return numerator / denominator if denominator > 0 else float("nan")
