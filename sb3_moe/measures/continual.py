"""Metrics of continual learning, each under the name of the variant that it is.

Scores are normalized before they come here (see :func:`sb3_moe.measures.normalize`), p_i(t) is task
i's at global step t, T is the last step.

Shapes: K evaluations, N tasks, M blocks of training, V visits of one task.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from sb3_moe.measures.curves import (
    Array,
    Blocks,
    area,
    block_ends,
    checked,
    checked_blocks,
    score_at,
    visits,
)

Reference = Mapping[int, tuple[ArrayLike, ArrayLike]]


def average_performance(score: ArrayLike, steps: ArrayLike, window: int = 1) -> float:
    """Return P(T), the mean over tasks at the end (Continual World, arXiv 2105.10919).

    :param score: (K, N)
    :param steps: (K,)
    :param window: evaluations to average over; Continual World takes 5
    """
    score_KN, _ = checked(score, steps)
    return float(score_KN[-window:].mean())


def forgetting_per_task(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> Array:
    """Return F_i = p_i(end of task i's last block) - p_i(T), (N,).

    Its mean is the forgetting of Continual World (arXiv 2105.10919); COOM's leaves out the task
    that was trained last, ``blocks[-1].task``.
    """
    score_KN, steps_K = checked(score, steps)
    ends = [visits(blocks, k)[-1].end for k in range(score_KN.shape[1])]
    at_end = [score_at(score_KN, steps_K, end)[k] for k, end in enumerate(ends)]
    return np.array(at_end) - score_KN[-1]


def forgetting_isolated(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> Array:
    """Return how much each block took from each task (CORA, arXiv 2110.10067), (M, N).

    Entry (j, i) is r_i before block j minus r_i after it, over the largest abs r_i of the run:
    positive where task i was forgotten, negative where it gained. NaN for a task that never scored.
    """
    score_KN, steps_K = checked(score, steps)
    before = np.stack([score_at(score_KN, steps_K, b.start) for b in checked_blocks(blocks)])
    largest = np.abs(score_KN).max(0)
    lost = before - block_ends(score_KN, steps_K, blocks)
    return np.divide(lost, largest, out=np.full_like(lost, np.nan), where=largest > 0)


def forward_transfer_per_task(
    score: ArrayLike, steps: ArrayLike, blocks: Blocks, reference: Reference | None
) -> Array:
    """Return FT_i = (AUC_i - AUC_i^b) / (1 - AUC_i^b) over each task's first block, (N,).

    NaN where the reference's area is 1 or more, which leaves no room to be better. Its mean is the
    forward transfer of Continual World (arXiv 2105.10919).

    :param score: (K, N)
    :param steps: (K,)
    :param blocks: of training
    :param reference: for each task, the scores (K',) and steps (K',) of a run on it alone,
        normalized as ``score`` is
    :raises ValueError: if a reference is missing, or ends before the task's first block is over
    """
    score_KN, steps_K = checked(score, steps)
    result = []
    for task in range(score_KN.shape[1]):
        block = visits(blocks, task)[0]
        mine = area(score_KN, steps_K, block.start, block.end)[task]
        if reference is None or task not in reference:
            raise ValueError(
                f"`reference` must hold (score, steps) of a run on task {task} alone, normalized "
                "as `score` is: load_scores(folder) reads what MultiTaskEvalCallback wrote"
            )
        scores, its_steps = reference[task]
        alone = area(np.reshape(scores, (-1, 1)), its_steps, 0.0, block.end - block.start)[0]
        result.append((mine - alone) / (1.0 - alone) if alone < 1.0 else np.nan)
    return np.array(result)


def backward_transfer_gem(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> float:
    """Return the mean over i < N of R_{N,i} - R_{i,i} (GEM, arXiv 1706.08840).

    Tasks count in the order in which they were trained last. NaN if there is only one.
    """
    score_KN, steps_K = checked(score, steps)
    now_N = block_ends(score_KN, steps_K, blocks)[-1]
    gains = [
        now_N[k] - score_at(score_KN, steps_K, visits(blocks, k)[-1].end)[k]
        for k in range(len(now_N))
        if k != blocks[-1].task
    ]
    return float(np.mean(gains)) if gains else float("nan")


def zero_shot_transfer_gem(
    score: ArrayLike, steps: ArrayLike, blocks: Blocks, random: ArrayLike | float = 0.0
) -> float:
    """Return the mean over i >= 2 of R_{i-1,i} - b_i: what earlier tasks give an untrained one.

    NaN if there is only one task (arXiv 1706.08840).

    :param score: (K, N)
    :param steps: (K,)
    :param blocks: of training
    :param random: b_i, a random agent's score, (N,); 0 for normalized scores
    """
    score_KN, steps_K = checked(score, steps)
    random_N = np.broadcast_to(np.asarray(random, np.float64), score_KN.shape[1:])
    seen: set[int] = set()
    gains = []
    for index, block in enumerate(checked_blocks(blocks)):
        if index > 0 and block.task not in seen:
            before = score_at(score_KN, steps_K, blocks[index - 1].end)
            gains.append(before[block.task] - random_N[block.task])
        seen.add(block.task)
    return float(np.mean(gains)) if gains else float("nan")


def area_ratios(score: ArrayLike, steps: ArrayLike, blocks: Blocks, task: int) -> Array:
    """Return AUC_k / AUC_1 for each visit of a task, (V,); NaN if AUC_1 is not positive."""
    score_KN, steps_K = checked(score, steps)
    own = visits(blocks, task)
    areas = np.array([area(score_KN, steps_K, b.start, b.end)[task] for b in own])
    return areas / areas[0] if areas[0] > 0 else np.full(len(areas), np.nan)


def plasticity_loss(score: ArrayLike, steps: ArrayLike, blocks: Blocks, task: int) -> float:
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
