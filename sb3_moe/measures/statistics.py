"""Holm's correction, and measures of how experts share the work.

Shapes: N tasks, E experts, T tokens, O outputs.
"""

import math

import numpy as np
import numpy.typing as npt
import torch as th
from numpy.typing import ArrayLike
from torch.nn import functional as F

Array = npt.NDArray[np.float64]


def holm(p_values: ArrayLike) -> list[float]:
    """Adjust p-values by Holm's step-down method (Scandinavian J. of Statistics 6, 1979).

    :param p_values: of all tests; there may be none
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted.tolist()


def decimals(values: ArrayLike) -> int:
    """Return how many decimals give the largest value three digits: 1 at least, 6 at most.

    >>> [decimals(each) for each in ([500.0, 9.6], [9.6], [0.25, -0.5])]
    [1, 2, 3]

    :param values: values shown side by side, of any shape; those that are not finite don't count
    """
    sizes = np.abs(np.asarray(values, np.float64))
    largest = float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))
    return min(max(2 - math.floor(math.log10(largest)), 1), 6) if largest else 1


# What experts do, and for which task.


def load_entropy(load_E: ArrayLike) -> float:
    """Return the entropy of the experts' shares of the work, divided by its maximum, log E.

    :param load_E: each expert's share; they need not sum to 1
    :return: 0 where one expert does everything, 1 where all do the same; 1 for a single expert; NaN
        where there is no work, or a share is not finite
    """
    load = np.asarray(load_E, np.float64)
    if len(load) == 1:
        return 1.0
    if not load.any() or not np.isfinite(load).all():
        return math.nan
    return float(_entropy(load / load.sum()) / math.log(len(load)))


def specialization(gates_NE: ArrayLike) -> float:
    """Return the mutual information between task and expert, divided by its maximum.

    :param gates_NE: mean gate of each expert for each task; rows are scaled to sum to 1. All tasks
        count equally, except those whose gates are all 0, which are left out
    :return: 0 where all tasks use the experts alike, 1 where the expert identifies the task (or,
        with fewer experts than tasks, as far as it can); 0 with one task or one expert; NaN where
        there is no task, or a gate is not finite
    """
    gates = np.atleast_2d(np.asarray(gates_NE, np.float64))
    gates = gates[gates.any(1)]
    if not gates.size or not np.isfinite(gates).all():
        return math.nan
    shares_NE = gates / gates.sum(axis=1, keepdims=True)
    smaller = min(shares_NE.shape)
    if smaller == 1:
        return 0.0
    information = _entropy(shares_NE.mean(0)) - _entropy(shares_NE).mean()
    # Rounding may leave the quotient slightly outside of its range.
    return float(np.clip(information / math.log(smaller), 0.0, 1.0))


def agreement(outputs_ETO: ArrayLike) -> float:
    """Return the mean cosine similarity between the outputs of two experts for the same input.

    :param outputs_ETO: every expert's output for every row
    :return: 1 where all experts' outputs have the same direction, -1 at the least; 1 for a single
        expert; NaN where an output is not finite
    """
    units = F.normalize(th.as_tensor(outputs_ETO, dtype=th.float64), dim=-1)
    num_experts = len(units)
    if num_experts == 1 and units.isfinite().all():
        return 1.0
    # The squared length of the sum holds every pair twice, and each expert with itself once.
    total = units.sum(0).square().sum(-1)
    alone = units.square().sum((0, 2))
    return float(((total - alone) / (num_experts * (num_experts - 1))).mean())


def _entropy(shares_E: Array) -> Array:
    """Return the entropy of shares on the last axis."""
    # Add 0.0, which makes a -0.0 positive: that is the sum where one expert has everything.
    return th.special.entr(th.as_tensor(shares_E)).sum(-1).numpy() + 0.0
