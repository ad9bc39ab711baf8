"""Whether a task is learned as well when it comes again (as MEAL asks).

Shapes: K evaluations, N tasks, V visits of one task.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sb3_moe.metrics.curves import Array, Block, area, checked, score_at, visits


def area_ratios(
    score: npt.ArrayLike, steps: npt.ArrayLike, blocks: Sequence[Block], task: int
) -> Array:
    """Return AUC_k / AUC_1 for each visit of a task, (V,); NaN if AUC_1 is not positive."""
    score_KN, steps_K = checked(score, steps)
    areas = [area(score_KN, steps_K, b.start, b.end)[task] for b in visits(blocks, task)]
    return _relative_to_first(np.array(areas))


def final_ratios(
    score: npt.ArrayLike, steps: npt.ArrayLike, blocks: Sequence[Block], task: int
) -> Array:
    """Return the score at the end of each visit over that of the first, (V,); NaN as above."""
    score_KN, steps_K = checked(score, steps)
    ends = [score_at(score_KN, steps_K, b.end)[task] for b in visits(blocks, task)]
    return _relative_to_first(np.array(ends))


def plasticity_loss(
    score: npt.ArrayLike, steps: npt.ArrayLike, blocks: Sequence[Block], task: int
) -> float:
    """Return the mean over visits k >= 2 of max(0, 1 - AUC_k / AUC_1).

    0 where later visits are learned at least as well as the first; NaN if AUC_1 is not positive.

    :raises ValueError: if the task has fewer than two blocks
    """
    ratios = area_ratios(score, steps, blocks, task)
    if len(ratios) < 2:
        raise ValueError(
            f"`blocks` must train task {task} at least twice, got {len(ratios)}; train with "
            "Cycle(..., num_cycles=2)"
        )
    return float(np.maximum(0.0, 1.0 - ratios[1:]).mean())


def _relative_to_first(values: Array) -> Array:
    if len(values) == 0 or values[0] <= 0:
        return np.full(len(values), np.nan)
    return values / values[0]
