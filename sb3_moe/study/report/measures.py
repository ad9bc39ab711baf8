"""What is measured of a run, game by game, from its folder alone.

Shapes: K evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sb3_moe.study.report.references import References, ratio
from sb3_moe.study.report.runs import Array, Run
from sb3_moe.study.spec.config import CellConfig

#: The value of a measure that belongs to the whole run is filed under this name.
WHOLE = "all games"

# A game with so many times an even share of the environments at most has as many steps as alone.
EVENLY = 1.05


def shown(game: str) -> str:
    """Say what a value belongs to: files call tasks games, and readers' tasks need not be."""
    return "all tasks" if game == WHOLE else game


# For which games of a run a measure is defined, by when they are trained there.


def is_trained(cell: CellConfig, game: str) -> bool:
    """Say whether a run trains a game."""
    return not cell.order or game in cell.order


def has_an_end(cell: CellConfig, game: str) -> bool:
    """Say whether what a run has made of a game is worth knowing: of others, alone, it isn't."""
    return is_trained(cell, game) or cell.regime != "scratch"


def has_blocks(cell: CellConfig, game: str) -> bool:
    """Say whether a game is trained in blocks."""
    return bool(cell.order) and is_trained(cell, game)


def comes_later(cell: CellConfig, game: str) -> bool:
    """Say whether other games are trained before it."""
    return has_blocks(cell, game) and cell.order[0] != game


def is_beside_scratch(cell: CellConfig, game: str) -> bool:
    """Say whether a stretch of a run has as many of a game's steps as its run from scratch."""
    # Where environments can't be dealt out evenly, one game has more steps than its share.
    most = math.ceil(cell.n_envs / len(cell.games)) * len(cell.games) / cell.n_envs
    evenly = cell.cycles == 1 and most <= EVENLY
    as_long = bool(cell.order) or (cell.regime == "mtrl" and evenly)
    return is_trained(cell, game) and as_long


def is_no_opener(cell: CellConfig, game: str) -> bool:
    """Leave out the first game of a sequence, which is its own reference."""
    return is_beside_scratch(cell, game) and cell.order[:1] != (game,)


# What is measured.


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
        if -math.inf < block_end(run, game) < random.get(game, float("nan"))
    ]


def diverged(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """List the runs, and the games, with a return that is no number: measures of it have none."""
    return [
        (run, game)
        for run in runs
        for game in run.cell.games
        if has_an_end(run.cell, game) and not np.isfinite(run.returns(game)).all()
    ]


def final(run: Run, game: str) -> float:
    """Mean return of a game at the end of the run; NaN for one that a run alone never trained."""
    return float(run.returns(game)[-1]) if has_an_end(run.cell, game) else float("nan")


def success(run: Run, game: str) -> float:
    """Share of a game's episodes that succeed at the end of the run."""
    return float(run.success(game)[-1])


def forgetting(run: Run, game: str) -> float:
    """Mean return of a game when its last block ended, less that at the end of the run.

    0 for the one trained last (arXiv 2105.10919); NaN for one that never was to its end.
    """
    return _loss(run.returns(game), run, game)


def _loss(values: Array, run: Run, game: str) -> float:
    """Value when a game's last block ended, less that at the end of the run."""
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

    Later blocks, of a sequence that is played again, would reward what was kept.
    """
    return _beside_scratch(run, game, references, run.cell.architecture.name)


def relative_area(run: Run, game: str, references: References) -> float:
    """Area within the game's first block, by dense's from scratch, both above random."""
    return _beside_scratch(run, game, references, "dense")


def _beside_scratch(run: Run, game: str, references: References, architecture: str) -> float:
    random = references.random.get(game, float("nan"))
    scratch = references.scratch_area(architecture, run.cell.seed, game)
    return ratio(first_area(run, game) - random, scratch - random)


def gain(run: Run, game: str, references: References) -> float:
    """Area within the game's first block, less the same network's area from scratch."""
    scratch = references.scratch_area(run.cell.architecture.name, run.cell.seed, game)
    return first_area(run, game) - scratch


def average_performance(run: Run, references: References) -> float:
    """Mean over games of the return at the end, from random (0) to dense from scratch (1)."""
    seed = run.cell.seed
    ends = [references.normalised(final(run, game), seed, game) for game in run.cell.games]
    return float(np.mean(ends))


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What can be known of a run.

    :param meaning: what readers are told
    :param of_game: its value for a game; None: it belongs to the whole run
    :param of_run: its value for the whole run
    :param defined: for which games of a run it is; of others there is no value
    :param unit: ``"return"``: the game's own; ``"success"``: a share of episodes that say so
    :param beside: whose runs from scratch it needs: those of the network's own, or of ``dense``
    """

    meaning: str
    of_game: Callable[[Run, str, References], float] | None = None
    of_run: Callable[[Run, References], float] | None = None
    defined: Callable[[CellConfig, str], bool] = is_trained
    unit: Literal["return", "success"] | None = None
    beside: Literal["own", "dense"] | None = None

    def games(self, cell: CellConfig) -> set[str]:
        """Name the games for which it is defined in a run, or :data:`WHOLE`."""
        if self.of_game is None:
            return {WHOLE}
        return {game for game in cell.games if self.defined(cell, game)}

    def values(self, run: Run, references: References) -> dict[str, float]:
        """Measure a run, by game; what belongs to the whole run is filed under :data:`WHOLE`."""
        if self.of_game is None:
            assert self.of_run is not None
            return {WHOLE: self.of_run(run, references)}
        defined = self.games(run.cell)
        return {
            game: self.of_game(run, game, references) if game in defined else float("nan")
            for game in run.cell.games
        }

    def reference(self, architecture: str) -> str | None:
        """Name the network whose runs from scratch it needs of another's; None: of none."""
        return architecture if self.beside == "own" else self.beside


MEASURES = {
    "plasticity": Measure(
        meaning="area within the task's first block, or the run where tasks are interleaved / "
        "the same network's area from scratch, both above the random policy; a task that opens a "
        "sequence is left out. It has transfer in it: above 1, what was learned before has helped",
        of_game=plasticity,
        defined=is_no_opener,
        beside="own",
    ),
    "relative_area": Measure(
        meaning="the same area / the dense network's from scratch, both above the random "
        "policy; mean over the orders",
        of_game=relative_area,
        defined=is_beside_scratch,
        beside="dense",
    ),
    "gain": Measure(
        meaning="mean return within the task's first block, less that of the same network from "
        "scratch; a task that opens a sequence is left out. Above 0, earlier training has helped",
        of_game=gain,
        defined=comes_later,
        beside="own",
        unit="return",
    ),
    "area": Measure(
        meaning="mean return while the task is trained: within its blocks, or over the run where "
        "tasks are interleaved or a schedule chooses them",
        of_game=lambda run, game, _: block_area(run, game),
        unit="return",
    ),
    "block_end": Measure(
        meaning="mean return over the last tenth of the task's last block",
        of_game=lambda run, game, _: block_end(run, game),
        unit="return",
    ),
    "final": Measure(
        meaning="mean return at the end of the run",
        of_game=lambda run, game, _: final(run, game),
        defined=has_an_end,
        unit="return",
    ),
    "forgetting": Measure(
        meaning="mean return at the end of the task's last block, less that at the end of the run",
        of_game=lambda run, game, _: forgetting(run, game),
        defined=has_blocks,
        unit="return",
    ),
    "success": Measure(
        meaning="share of episodes that succeed at the end of the run",
        of_game=lambda run, game, _: success(run, game),
        defined=has_an_end,
        unit="success",
    ),
    "success_area": Measure(
        meaning="mean share of episodes that succeed while the task is trained",
        of_game=lambda run, game, _: success_area(run, game),
        unit="success",
    ),
    "success_forgetting": Measure(
        meaning="share of episodes that succeed at the end of the task's last block, "
        "less that at the end of the run",
        of_game=lambda run, game, _: success_forgetting(run, game),
        defined=has_blocks,
        unit="success",
    ),
    "average_performance": Measure(
        meaning="mean over tasks of the normalised return at the end of the run",
        of_run=average_performance,
        beside="dense",
    ),
    "dormant": Measure(
        meaning="fraction of dormant neurons, mean over layers and the second half of the run",
        of_run=lambda run, _: dormant(run),
    ),
    "inactive": Measure(
        meaning="fraction of neurons that hardly any gradient reached in the last update, mean "
        "over layers and the second half of the run; where `PlasticityCallback` has `by_gradient`",
        of_run=lambda run, _: inactive(run),
    ),
}


def measure(name: str, run: Run, references: References) -> dict[str, float]:
    """Measure a run, by game; what belongs to the whole run is filed under :data:`WHOLE`.

    :param name: one of :data:`MEASURES`
    :raises ValueError: if it is another
    """
    if name not in MEASURES:
        raise ValueError(f"`measure` must be one of {', '.join(MEASURES)}, got {name!r}")
    return MEASURES[name].values(run, references)
