"""What is measured of a run, game by game, from its folder alone.

Shapes: K evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sb3_moe.study.report.references import References, ratio
from sb3_moe.study.report.runs import Array, Run
from sb3_moe.study.spec.config import CellConfig

#: The value of a measure that belongs to the whole run is filed under this name.
WHOLE = "all games"


def shown(game: str) -> str:
    """Say what a value belongs to: files call tasks games, and readers' tasks need not be."""
    return "all tasks" if game == WHOLE else game


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


def block_area(run: Run, game: str) -> float:
    """Mean return of a game while it was trained; NaN if it never was."""
    areas = [run.area(run.returns(game), block) for block in run.blocks(game)]
    return float(np.mean(areas)) if areas else float("nan")


def first_area(run: Run, game: str) -> float:
    """Mean return of a game in its first block, which is as long as that from scratch."""
    blocks = run.blocks(game)
    return run.area(run.returns(game), blocks[0]) if blocks else float("nan")


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
    areas = [run.area(run.success(game), block) for block in run.blocks(game)]
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
    return ratio(first_area(run, game) - random, scratch - random)


def gain(run: Run, game: str, references: References) -> float:
    """Area within the game's first block, less the same network's area from scratch.

    NaN for the first game of a sequence, which is its own reference, and where there are no blocks.
    """
    if not is_measured("gain", run.cell, game):
        return float("nan")
    scratch = references.scratch_area(run.cell.architecture.name, run.cell.seed, game)
    return first_area(run, game) - scratch


def average_performance(run: Run, references: References) -> float:
    """Mean over games of the return at the end, from random (0) to dense from scratch (1)."""
    seed = run.cell.seed
    ends = [references.normalised(final(run, game), seed, game) for game in run.cell.games]
    return float(np.mean(ends))


def measure(name: str, run: Run, references: References) -> dict[str, float]:
    """Measure a run, by game; what belongs to the whole run is filed under :data:`WHOLE`.

    :param name: one of :data:`MEASURES`
    :raises ValueError: if it is another
    """
    games = run.cell.games
    if name in _OF_GAMES:
        return {game: _OF_GAMES[name](run, game) for game in games}
    if name in _COMPARED:
        return {game: _COMPARED[name](run, game, references) for game in games}
    if name == "average_performance":
        return {WHOLE: average_performance(run, references)}
    if name == "dormant":
        return {WHOLE: dormant(run)}
    if name == "inactive":
        return {WHOLE: inactive(run)}
    raise ValueError(f"`measure` must be one of {', '.join(MEASURES)}, got {name!r}")


_OF_GAMES: dict[str, Callable[[Run, str], float]] = {
    "area": block_area,
    "block_end": block_end,
    "final": final,
    "forgetting": forgetting,
    "success": success,
    "success_area": success_area,
    "success_forgetting": success_forgetting,
}

_COMPARED: dict[str, Callable[[Run, str, References], float]] = {
    "plasticity": plasticity,
    "relative_area": relative_area,
    "gain": gain,
}

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
