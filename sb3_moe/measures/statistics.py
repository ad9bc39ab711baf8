"""Summaries over seeds and tasks, with intervals (Agarwal et al. 2021, arXiv 2108.13264).

Shapes: S seeds, N tasks, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

Array = npt.NDArray[np.float64]
Statistic = Callable[..., Any]


class Interval(NamedTuple):
    """A confidence interval; both ends are NaN where there are fewer than two seeds."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value and its confidence interval, see :class:`Interval`."""

    value: float
    low: float
    high: float


def iqm(scores: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Return the interquartile mean: the mean without the lowest and highest quarter.

    :param scores: of any shape
    :param axis: over which; None: all
    :raises ValueError: if there are none, or one is not finite
    """
    values = _finite(scores, "scores")
    if values.size == 0:
        raise ValueError(f"`scores` must not be empty, got shape {values.shape}")
    axes = tuple(range(values.ndim)) if axis is None else np.atleast_1d(axis)
    values = np.moveaxis(values, axes, range(-len(axes), 0))
    values = np.sort(values.reshape(*values.shape[: values.ndim - len(axes)], -1), axis=-1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(-1)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic over seeds.

    Of several tasks, seeds are resampled within each task, as rliable does.

    >>> found = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> round(found.low, 1), round(found.high, 1)
    (1.8, 4.2)

    :param values: one for each seed, (S,), or for each seed and task, (S, N)
    :param statistic: takes ``axis``; applied over seeds and tasks together
    :param confidence: between 0 and 1
    :param resamples: B
    :param seed: the same seed gives the same interval
    :return: NaN and NaN of a single seed
    :raises ValueError: if there are no values, or one is not finite
    """
    array = _finite(values, "values")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"`values` must be (seeds,) or (seeds, tasks), got shape {array.shape}")
    seeds = len(array)
    if seeds < 2:
        return Interval(float("nan"), float("nan"))
    index = np.random.default_rng(seed).integers(0, seeds, (resamples, *array.shape))
    resampled = np.take_along_axis(array[None], index, axis=1)
    tail = 50.0 * (1.0 - confidence)
    found = statistic(resampled, axis=-1 if array.ndim == 1 else (1, 2))
    low, high = np.percentile(found, [tail, 100.0 - tail])
    return Interval(float(low), float(high))


def paired_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Estimate:
    """Return the mean of ours - theirs over seeds, with its bootstrap interval.

    :param ours: one value for each seed, (S,)
    :param theirs: of the same seeds, in the same order
    :param confidence: between 0 and 1
    :param resamples: B
    :param seed: the same seed gives the same interval
    :return: the difference; with a single seed, both ends of its interval are NaN
    :raises ValueError: if the numbers of seeds differ, or as :func:`bootstrap_interval`
    """
    ours_S, theirs_S = (_checked(v, 1, "values", "(seeds,)") for v in (ours, theirs))
    if len(ours_S) != len(theirs_S):
        raise ValueError(
            f"`ours` and `theirs` must be of the same seeds, got {len(ours_S)} and {len(theirs_S)}"
        )
    difference_S = ours_S - theirs_S
    interval = bootstrap_interval(
        difference_S, confidence=confidence, resamples=resamples, seed=seed
    )
    return Estimate(float(difference_S.mean()), *interval)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Return the share of runs that score above each threshold, averaged over tasks.

    :param scores: (S, N)
    :param thresholds: (any number,)
    :raises ValueError: if there are no scores, or one is not finite
    """
    scores_SN = _checked(scores, 2, "scores", "(seeds, tasks)")
    return np.array([(scores_SN > each).mean() for each in np.asarray(thresholds, np.float64)])


def probability_of_improvement(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Return the probability that a run of ours beats one of theirs, ties half, over tasks.

    :param ours: (S, N)
    :param theirs: (S', N)
    :raises ValueError: if the numbers of tasks differ
    """
    ours_SN, theirs_SN = (_checked(v, 2, "scores", "(seeds, tasks)") for v in (ours, theirs))
    if ours_SN.shape[1] != theirs_SN.shape[1]:
        tasks = f"{ours_SN.shape[1]} and {theirs_SN.shape[1]}"
        raise ValueError(f"`ours` and `theirs` must have the same tasks, got {tasks}")
    difference = ours_SN[:, None] - theirs_SN[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down method (Scandinavian J. of Statistics 6, 1979).

    :param p_values: of all tests; there may be none
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(steps)
    return [float(value) for value in adjusted]


def _checked(values: ArrayLike, dim: int, name: str, shape: str) -> Array:
    array = np.asarray(values, np.float64)
    if array.ndim != dim or array.size == 0:
        raise ValueError(f"`{name}` must be {shape} and not empty, got shape {array.shape}")
    return _finite(array, name)


def _finite(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got {array}")
    return array


def decimals(values: ArrayLike) -> int:
    """Return how many decimals give the largest value three digits: 1 at least, 6 at most.

    >>> [decimals(each) for each in ([500.0, 9.6], [9.6], [0.25, -0.5])]
    [1, 2, 3]

    :param values: that stand side by side, of any shape; those that are not finite don't count
    """
    sizes = np.abs(np.asarray(values, np.float64))
    largest = float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))
    return min(max(2 - math.floor(math.log10(largest)), 1), 6) if largest else 1
