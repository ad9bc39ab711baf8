"""Scores over time, the blocks in which tasks were trained, and values at and between them.

Shapes: K evaluations, N tasks, M blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sb3_moe.saving.files import read_npz

Array = npt.NDArray[np.float64]


class Block(NamedTuple):
    """A stretch of training on one task.

    :param task: index of the task
    :param start: global step before its first step
    :param end: global step after its last step
    """

    task: int
    start: float
    end: float


class Scores(NamedTuple):
    """What a run's ``scores.npz`` says.

    :param score: mean return of each task at each evaluation, (K, N)
    :param steps: global step of each evaluation, (K,)
    :param trained: task that was trained just before each evaluation, -1 for all, (K,)
    :param task_names: (N,)
    """

    score: Array
    steps: Array
    trained: npt.NDArray[np.int64]
    task_names: list[str]

    @property
    def blocks(self) -> list[Block]:
        """The blocks of training, as far as evaluations tell; none if tasks were interleaved."""
        return blocks_of(self.steps, self.trained)


def load_scores(folder: str | Path) -> Scores:
    """Read the scores of a run from its folder.

    :param folder: where ``MultiTaskEvalCallback`` wrote
    :raises ValueError: if there are none, or the file is damaged or another
    """
    path = Path(folder) / "scores.npz"
    if not path.exists():
        raise ValueError(
            f"{folder} has no scores.npz; train with "
            "MultiTaskEvalCallback(every=..., log_path=folder) to get one"
        )
    saved = read_npz(path)
    if missing := [name for name in Scores._fields if name not in saved]:
        raise ValueError(
            f"{path} must be what MultiTaskEvalCallback wrote, which has {missing[0]!r}: a "
            "report's file of that name is another"
        )
    return Scores(
        saved["score"],
        saved["steps"].astype(np.float64),
        saved["trained"],
        saved["task_names"].tolist(),
    )


def blocks_of(steps: npt.ArrayLike, trained: npt.ArrayLike) -> list[Block]:
    """Find the blocks of training from what each evaluation says was trained before it.

    A block ends at its last evaluation: those of ``MultiTaskEvalCallback`` are at every switch.

    :param steps: (K,)
    :param trained: (K,), -1 where all tasks were
    """
    steps_K, trained_K = np.asarray(steps, np.float64), np.asarray(trained)
    blocks: list[Block] = []
    for before, step, task in zip(steps_K[:-1], steps_K[1:], trained_K[1:], strict=True):
        if blocks and blocks[-1].task == task and blocks[-1].end == before:
            blocks[-1] = blocks[-1]._replace(end=float(step))
        elif task >= 0:
            blocks.append(Block(int(task), float(before), float(step)))
    return blocks


def checked(score: npt.ArrayLike, steps: npt.ArrayLike) -> tuple[Array, Array]:
    """Return scores (K, N) and steps (K,) as arrays.

    :raises ValueError: if shapes or order are wrong, or a score is not finite
    """
    score_KN, steps_K = np.asarray(score, np.float64), np.asarray(steps, np.float64)
    if score_KN.ndim != 2 or steps_K.shape != score_KN.shape[:1] or len(steps_K) == 0:
        raise ValueError(
            "`score` must be (evaluations, tasks) and `steps` (evaluations,), got shapes "
            f"{score_KN.shape} and {steps_K.shape}"
        )
    if not np.isfinite(score_KN).all():
        raise ValueError("`score` must be finite; a task was not evaluated at some step")
    if np.any(np.diff(steps_K) <= 0):
        raise ValueError(f"`steps` must rise, got {steps_K.tolist()}")
    return score_KN, steps_K


def score_at(score: npt.ArrayLike, steps: npt.ArrayLike, step: float) -> Array:
    """Return the score of every task at a step, on the line between evaluations, (N,).

    :raises ValueError: if the step is outside of the evaluations
    """
    score_KN, steps_K = checked(score, steps)
    _check_covered(steps_K, step, step)
    return np.array([np.interp(step, steps_K, column) for column in score_KN.T])


def area(score: npt.ArrayLike, steps: npt.ArrayLike, start: float, end: float) -> Array:
    """Return the mean score of every task over a stretch, by the trapezoidal rule, (N,).

    :raises ValueError: if the stretch is empty or outside of the evaluations
    """
    score_KN, steps_K = checked(score, steps)
    if end <= start:
        raise ValueError(f"`end` must be above start={start}, got {end}")
    _check_covered(steps_K, start, end)
    inside = steps_K[(steps_K > start) & (steps_K < end)]
    points = np.concatenate([[start], inside, [end]])
    values = np.array([np.interp(points, steps_K, column) for column in score_KN.T])
    return np.trapezoid(values, points, axis=1) / (end - start)


def block_ends(score: npt.ArrayLike, steps: npt.ArrayLike, blocks: Sequence[Block]) -> Array:
    """Return R: the score of every task at the end of every block, (M, N)."""
    return np.stack([score_at(score, steps, block.end) for block in checked_blocks(blocks)])


def checked_blocks(blocks: Sequence[Block]) -> Sequence[Block]:
    """Return the blocks.

    :raises ValueError: if there are none
    """
    if not blocks:
        raise ValueError(
            "`blocks` must hold at least one block, got none; train with a Cycle or Sequence "
            "schedule, and take them from load_scores(folder).blocks"
        )
    return blocks


def visits(blocks: Sequence[Block], task: int) -> list[Block]:
    """Return the blocks of one task, in order.

    :raises ValueError: if it has none
    """
    mine = [block for block in checked_blocks(blocks) if block.task == task]
    if not mine:
        raise ValueError(f"`blocks` must train every task, but none trains task {task}")
    return mine


def _check_covered(steps_K: Array, start: float, end: float) -> None:
    if start < steps_K[0] or end > steps_K[-1]:
        raise ValueError(
            f"evaluations must cover the steps from {start:g} to {end:g}, but go from "
            f"{steps_K[0]:g} to {steps_K[-1]:g}"
        )
