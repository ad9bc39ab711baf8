"""What is measured of a run, game by game, from its folder alone.

Shapes: K evaluations, N games.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
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


def is_measured(name: str, cell: CellConfig, game: str) -> bool:
    """Say whether a measure is defined for a game of a run, by when the game is trained there."""
    trained = not cell.order or game in cell.order
    if name in ("final", "success"):
        # What fine-tuning has made of a task that it never trained is worth knowing; alone not.
        return trained or cell.regime != "scratch"
    if name in ("forgetting", "success_forgetting"):
        return bool(cell.order) and trained
    if name == "gain":
        return bool(cell.order) and trained and cell.order[0] != game
    if name in BESIDE_SCRATCH:
        opens = name == "plasticity" and cell.order[:1] == (game,)
        return trained and not opens and _is_as_long_as_scratch(cell)
    return trained


def _is_as_long_as_scratch(cell: CellConfig) -> bool:
    """Say whether a stretch of a run has as many of a task's steps as its run from scratch."""
    if cell.order:  # its first block
        return True
    return cell.regime == "mtrl" and cell.cycles == 1


def games_measured(name: str, cell: CellConfig) -> set[str]:
    """Name the games for which a measure is defined in a run, or :data:`WHOLE`."""
    if name in OF_RUNS:
        return {WHOLE}
    return {game for game in cell.games if is_measured(name, cell, game)}


def area(run: Run, game: str, block: tuple[int, int]) -> float:
    """Mean return over a stretch; NaN where a run was stopped before its end, or any return is."""
    return _area(run.returns(game), run, block)


def _area(values: Array, run: Run, block: tuple[int, int]) -> float:
    """Mean of one value per evaluation over a stretch."""
    start, end = block
    if run.steps[-1] < end or not np.isfinite(values).all():
        return float("nan")
    return float(metrics.area(values[:, None], run.steps, start, end)[0])


def block_area(run: Run, game: str) -> float:
    """Mean return of a game while it was trained; NaN if it never was."""
    areas = [area(run, game, block) for block in run.blocks(game)]
    return float(np.mean(areas)) if areas else float("nan")


def first_area(run: Run, game: str) -> float:
    """Mean return of a game in its first block, which is as long as that from scratch."""
    blocks = run.blocks(game)
    return area(run, game, blocks[0]) if blocks else float("nan")


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
    """Mean return of a game at the end of the run; NaN for one that a run alone never trained."""
    if not is_measured("final", run.cell, game):
        return float("nan")
    return float(run.returns(game)[-1])


def success(run: Run, game: str) -> float:
    """Share of a game's episodes that succeed at the end of the run, where `final` is measured."""
    if not is_measured("success", run.cell, game):
        return float("nan")
    return float(run.success(game)[-1])


def forgetting(run: Run, game: str) -> float:
    """Mean return of a game when its last block ended, less that at the end of the run.

    0 for the one trained last (arXiv 2105.10919); NaN for one that never was to its end, or not in
    blocks.
    """
    return _loss(run.returns(game), run, game)


def _loss(values: Array, run: Run, game: str) -> float:
    """Value when a game's last block ended, less that at the end of the run."""
    if not is_measured("forgetting", run.cell, game):
        return float("nan")
    end = run.blocks(game)[-1][1]
    if run.steps[-1] < end:
        return float("nan")
    return float(values[run.steps <= end][-1] - values[-1])


def success_area(run: Run, game: str) -> float:
    """Mean share of successes while a game was trained; NaN where it says nothing of success."""
    areas = [_area(run.success(game), run, block) for block in run.blocks(game)]
    return float(np.mean(areas)) if areas else float("nan")


def success_forgetting(run: Run, game: str) -> float:
    """Share of successes when a game's last block ended, less that at the end of the run."""
    return _loss(run.success(game), run, game)


def dormant(run: Run) -> float:
    """Fraction of dormant neurons, averaged over the layers and the second half of the run."""
    return _of_second_half(run, "dormant")


def inactive(run: Run) -> float:
    """Share of units that hardly any gradient reached, averaged likewise; NaN if unmeasured."""
    return _of_second_half(run, "inactive")


def _of_second_half(run: Run, kind: str) -> float:
    found = run.inside(kind)
    if found is None:
        return float("nan")
    steps, values = found
    late = steps >= run.diagnostics["steps"][-1] / 2
    return float(np.mean(values[late])) if late.any() else float("nan")


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


def reference_of(name: str, architecture: str) -> str | None:
    """Name the network whose runs from scratch a measure of another needs; None: of none."""
    if name in ("plasticity", "gain"):
        return architecture
    return "dense" if name in ("relative_area", "average_performance") else None


class References:
    """What a return is compared with: the random policy, and the same network from scratch.

    The first of the :func:`openers` counts.

    :param runs: all of a study
    :param random: mean return of the random policy, by game
    """

    def __init__(self, runs: Sequence[Run], random: Mapping[str, float]) -> None:
        self.random = random
        self._areas: dict[tuple[str, int, str], float] = {}
        self._ends: dict[tuple[str, int, str], float] = {}
        for i in openers([run.cell for run in runs]):
            self._add(runs[i])

    def _add(self, run: Run) -> None:
        """Take a block that nothing came before."""
        if run.steps[-1] < run.cell.steps_per_task:
            return
        game = run.cell.order[0]
        key = (run.cell.architecture.name, run.cell.seed, game)
        if key in self._areas:
            return
        block = (0, run.cell.steps_per_task)
        self._areas[key] = area(run, game, block)
        last = run.steps <= block[1]
        self._ends[key] = float(run.returns(game)[last][-1])

    def scratch_area(self, architecture: str, seed: int, game: str) -> float:
        """Area of a game's curve from scratch; NaN if there is no such run."""
        return self._areas.get((architecture, seed, game), float("nan"))

    def normalised(self, value: float, seed: int, game: str) -> float:
        """Put a return between the random policy's (0) and dense from scratch's (1)."""
        random = self.random.get(game, float("nan"))
        return _ratio(value - random, self._ends.get(("dense", seed, game), np.nan) - random)


def plasticity(run: Run, game: str, references: References) -> float:
    """Area within the game's first block, by the same network's from scratch, both above random.

    Later blocks, of a sequence that is played again, would reward what was kept. NaN for the first
    game of a sequence, which is its own reference, and where a schedule or several cycles make the
    run's stretch another length than that from scratch.
    """
    if not is_measured("plasticity", run.cell, game):
        return float("nan")
    return _beside_scratch(run, game, references, run.cell.architecture.name)


def relative_area(run: Run, game: str, references: References) -> float:
    """Area within the game's first block, by dense's from scratch, both above random."""
    if not is_measured("relative_area", run.cell, game):
        return float("nan")
    return _beside_scratch(run, game, references, "dense")


def _beside_scratch(run: Run, game: str, references: References, architecture: str) -> float:
    random = references.random.get(game, float("nan"))
    scratch = references.scratch_area(architecture, run.cell.seed, game)
    return _ratio(first_area(run, game) - random, scratch - random)


def gain(run: Run, game: str, references: References) -> float:
    """Area within the game's first block, less the same network's area from scratch.

    NaN for the first game of a sequence, which is its own reference, and where there are no blocks.
    """
    if not is_measured("gain", run.cell, game):
        return float("nan")
    scratch = references.scratch_area(run.cell.architecture.name, run.cell.seed, game)
    return first_area(run, game) - scratch


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
        return {game: relative_area(run, game, references) for game in games}
    if name == "block_end":
        return {game: block_end(run, game) for game in games}
    if name == "final":
        return {game: final(run, game) for game in games}
    if name == "forgetting":
        return {game: forgetting(run, game) for game in games}
    if name == "success":
        return {game: success(run, game) for game in games}
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
    "plasticity": "area within the task's first block, or the run where tasks are interleaved / "
    "the same network's area from scratch, both above the random policy; a task that opens a "
    "sequence is left out. It has transfer in it: above 1, what was learned before has helped",
    "relative_area": "the same area / the dense network's from scratch, both above the random "
    "policy; mean over the orders",
    "gain": "mean return within the task's first block, less that of the same network from "
    "scratch; a task that opens a sequence is left out. Above 0, earlier training has helped",
    "area": "mean return while the task is trained: within its blocks, or over the run where "
    "tasks are interleaved or a schedule chooses them",
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

#: Those that put a stretch of a run beside a run from scratch.
BESIDE_SCRATCH = ("plasticity", "relative_area")

#: Those whose unit is the task's own return.
IN_RETURNS = ("gain", "area", "block_end", "final", "forgetting")

#: Those of the whole run.
OF_RUNS = ("average_performance", "dormant", "inactive")

#: Those that only games have which say whether an episode succeeds.
OF_SUCCESS = ("success", "success_area", "success_forgetting")
