"""What is measured of a run, game by game, from its folder alone.

Shapes: K evaluations, N games.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_moe import metrics
from sb3_moe.study.spec.config import CellConfig

Array = npt.NDArray[np.float64]

#: The value of a measure that belongs to the whole run is filed under this name.
WHOLE = "all games"


def shown(game: str) -> str:
    """Say what a value belongs to: files call tasks games, and readers' tasks need not be."""
    return "all tasks" if game == WHOLE else game


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

    @property
    def dormant_layers(self) -> list[Array]:
        """Fraction of dormant neurons of each hidden layer at each probe."""
        return self._layers("dormant/")

    @property
    def inactive_layers(self) -> list[Array]:
        """Share of units of each hidden layer that hardly any gradient reached, at each probe."""
        return self._layers("inactive/")

    def _layers(self, prefix: str) -> list[Array]:
        return [v for k, v in self.diagnostics.items() if k.startswith(prefix)]

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


def is_measured(name: str, cell: CellConfig, game: str) -> bool:
    """Say whether a measure is defined for a game of a run, by when the game is trained there."""
    if name in ("final", "success"):
        return True
    trained = not cell.order or game in cell.order
    if name in ("forgetting", "success_forgetting"):
        return bool(cell.order) and trained
    if name == "gain":
        return bool(cell.order) and trained and cell.order[0] != game
    if name == "plasticity":
        return trained and cell.order[:1] != (game,)
    return trained


def games_measured(name: str, cell: CellConfig) -> set[str]:
    """Name the games for which a measure is defined in a run, or :data:`WHOLE`."""
    if name in OF_RUNS:
        return {WHOLE}
    return {game for game in cell.games if is_measured(name, cell, game)}


def area(run: Run, game: str, block: tuple[int, int]) -> float:
    """Mean return over a stretch; NaN where a run was stopped before its end."""
    start, end = block
    if run.steps[-1] < end:
        return float("nan")
    column = run.cell.games.index(game)
    return float(metrics.area(run.scores["score"], run.steps, start, end)[column])


def block_area(run: Run, game: str) -> float:
    """Mean return of a game while it was trained; NaN if it never was."""
    areas = [area(run, game, block) for block in run.blocks(game)]
    return float(np.mean(areas)) if areas else float("nan")


def block_end(run: Run, game: str) -> float:
    """Mean return of a game over the last tenth of its last block; NaN without a block."""
    blocks = run.blocks(game)
    if not blocks:
        return float("nan")
    start, end = blocks[-1]
    inside = (run.steps > end - 0.1 * (end - start)) & (run.steps <= end)
    return float(np.mean(run.returns(game)[inside])) if inside.any() else float("nan")


def collapsed(runs: Sequence[Run], random: Mapping[str, float]) -> list[tuple[Run, str]]:
    """List the runs, and the games, whose training ended below the random policy."""
    return [
        (run, game)
        for run in runs
        for game in run.cell.games
        if block_end(run, game) < random.get(game, float("nan"))
    ]


def final(run: Run, game: str) -> float:
    """Mean return of a game at the end of the run, whatever was trained last."""
    return float(run.returns(game)[-1])


def forgetting(run: Run, game: str) -> float:
    """Mean return of a game when its last block ended, less that at the end of the run.

    0 for the one trained last (arXiv 2105.10919); NaN for one that never was, or not in blocks.
    """
    if not is_measured("forgetting", run.cell, game):
        return float("nan")
    trained = run.steps <= run.blocks(game)[-1][1]
    return float(run.returns(game)[trained][-1]) - final(run, game)


def success_area(run: Run, game: str) -> float:
    """Mean share of successes while a game was trained; NaN where it says nothing of success."""
    shares = run.success(game)
    if np.isnan(shares).any() or not run.blocks(game) or run.steps[-1] < run.blocks(game)[-1][1]:
        return float("nan")
    areas = [metrics.area(shares[:, None], run.steps, *block)[0] for block in run.blocks(game)]
    return float(np.mean(areas))


def success_forgetting(run: Run, game: str) -> float:
    """Share of successes when a game's last block ended, less that at the end of the run."""
    if not is_measured("success_forgetting", run.cell, game):
        return float("nan")
    shares, trained = run.success(game), run.steps <= run.blocks(game)[-1][1]
    return float(shares[trained][-1] - shares[-1])


def dormant(run: Run) -> float:
    """Fraction of dormant neurons, averaged over the layers and the second half of the run."""
    return _of_second_half(run.dormant_layers)


def inactive(run: Run) -> float:
    """Share of units that hardly any gradient reached, averaged likewise; NaN if unmeasured."""
    return _of_second_half(run.inactive_layers)


def _of_second_half(layers: Sequence[Array]) -> float:
    if not layers:
        return float("nan")
    mean = np.mean(np.stack(layers), axis=0)
    return float(np.mean(mean[len(mean) // 2 :]))


class References:
    """What a return is compared with: the random policy, and the same network from scratch.

    The regime ``"scratch"`` counts before blocks that open a sequence, and the first of these.

    :param runs: all of a study
    :param random: mean return of the random policy, by game
    """

    def __init__(self, runs: Sequence[Run], random: Mapping[str, float]) -> None:
        self.random = random
        self._areas: dict[tuple[str, int, str], float] = {}
        self._ends: dict[tuple[str, int, str], float] = {}
        for run in sorted(runs, key=lambda run: run.cell.regime != "scratch"):
            self._add(run)

    def _add(self, run: Run) -> None:
        """A block that nothing came before is a run from scratch, whichever regime it opens."""
        if not run.cell.order or run.steps[-1] < run.cell.steps_per_task:
            return
        if run.cell.architecture.start_from is not None:
            return
        game = run.cell.order[0]
        key = (run.cell.architecture.name, run.cell.seed, game)
        if key in self._areas:
            return
        block = (0, run.cell.steps_per_task)
        self._areas[key] = area(run, game, block)
        last = run.steps <= block[1]
        self._ends[key] = float(run.returns(game)[last][-1])

    def relative_area(self, value: float, seed: int, game: str) -> float:
        """Put an area between the random policy's (0) and that of dense from scratch (1)."""
        random = self.random.get(game, float("nan"))
        return _ratio(value - random, self.scratch_area("dense", seed, game) - random)

    def scratch_area(self, architecture: str, seed: int, game: str) -> float:
        """Area of a game's curve from scratch; NaN if there is no such run."""
        return self._areas.get((architecture, seed, game), float("nan"))

    def normalised(self, value: float, seed: int, game: str) -> float:
        """Put a return between the random policy's (0) and dense from scratch's (1)."""
        random = self.random.get(game, float("nan"))
        return _ratio(value - random, self._ends.get(("dense", seed, game), np.nan) - random)


def plasticity(run: Run, game: str, references: References) -> float:
    """Area within the game's blocks, by the same network's area from scratch, both above random.

    NaN for the first game of a sequence: it is its own reference.
    """
    if not is_measured("plasticity", run.cell, game):
        return float("nan")
    random = references.random.get(game, float("nan"))
    scratch = references.scratch_area(run.cell.architecture.name, run.cell.seed, game)
    return _ratio(block_area(run, game) - random, scratch - random)


def gain(run: Run, game: str, references: References) -> float:
    """Area within the game's first block, less the same network's area from scratch.

    NaN for the first game of a sequence, which is its own reference, and where there are no blocks.
    """
    if not is_measured("gain", run.cell, game):
        return float("nan")
    scratch = references.scratch_area(run.cell.architecture.name, run.cell.seed, game)
    return area(run, game, run.blocks(game)[0]) - scratch


def _ratio(numerator: float, denominator: float) -> float:
    """Divide, or say that there is nothing to divide by: a reference no better than random."""
    return numerator / denominator if denominator > 0 else float("nan")


def measure(name: str, run: Run, references: References) -> dict[str, float]:
    """Measure a run, by game; what belongs to the whole run is filed under :data:`WHOLE`.

    :param name: one of :data:`MEASURES`
    :raises ValueError: if it is another
    """
    games = run.cell.games
    if name == "plasticity":
        return {game: plasticity(run, game, references) for game in games}
    if name == "gain":
        return {game: gain(run, game, references) for game in games}
    if name == "area":
        return {game: block_area(run, game) for game in games}
    if name == "relative_area":
        seed = run.cell.seed
        return {g: references.relative_area(block_area(run, g), seed, g) for g in games}
    if name == "block_end":
        return {game: block_end(run, game) for game in games}
    if name == "final":
        return {game: final(run, game) for game in games}
    if name == "forgetting":
        return {game: forgetting(run, game) for game in games}
    if name == "success":
        return {game: float(run.success(game)[-1]) for game in games}
    if name == "success_area":
        return {game: success_area(run, game) for game in games}
    if name == "success_forgetting":
        return {game: success_forgetting(run, game) for game in games}
    if name == "average_performance":
        seed = run.cell.seed
        ends = [references.normalised(final(run, game), seed, game) for game in games]
        return {WHOLE: float(np.mean(ends))}
    if name == "dormant":
        return {WHOLE: dormant(run)}
    if name == "inactive":
        return {WHOLE: inactive(run)}
    raise ValueError(f"`measure` must be one of {', '.join(MEASURES)}, got {name!r}")


MEASURES = {
    "plasticity": "area within the task's blocks / the same network's area from scratch, both "
    "above the random policy; a task that opens a sequence is left out. It has transfer in it: "
    "above 1, what was learned before has helped",
    "relative_area": "area within the task's blocks / the dense network's area from scratch, both "
    "above the random policy; mean over the orders",
    "gain": "mean return within the task's first block, less that of the same network from "
    "scratch; a task that opens a sequence is left out. Above 0, earlier training has helped",
    "area": "mean return while the task is trained",
    "block_end": "mean return over the last tenth of the task's last block",
    "final": "mean return at the end of the run",
    "forgetting": "mean return at the end of the task's last block, less that at the end of the "
    "run",
    "success": "share of episodes that succeed at the end of the run",
    "success_area": "mean share of episodes that succeed while the task is trained",
    "success_forgetting": "share of episodes that succeed at the end of the task's last block, "
    "less that at the end of the run",
    "average_performance": "mean over tasks of the normalised return at the end of the run",
    "dormant": "fraction of dormant neurons, mean over layers and the second half of the run",
    "inactive": "fraction of neurons that hardly any gradient reached in the last update, mean "
    "over layers and the second half of the run; where `PlasticityCallback` has `by_gradient`",
}

#: Those whose unit is the task's own return.
IN_RETURNS = ("gain", "area", "block_end", "final", "forgetting")

#: Those of the whole run.
OF_RUNS = ("average_performance", "dormant", "inactive")

#: Those that only games have which say whether an episode succeeds.
OF_SUCCESS = ("success", "success_area", "success_forgetting")
