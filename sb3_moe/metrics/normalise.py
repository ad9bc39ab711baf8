"""Returns as scores between a random agent (0) and a reference (1).

Shapes: N tasks, on the last axis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_moe.metrics.curves import Array
from sb3_moe.metrics.returns import RANDOM


def normalise(returns: npt.ArrayLike, random: npt.ArrayLike, reference: npt.ArrayLike) -> Array:
    """Return (returns - random) / (reference - random).

    :param returns: (..., N)
    :param random: a random agent's mean returns, (N,)
    :param reference: a reference's mean returns, (N,), each above the random one
    :raises ValueError: if a reference is not above random: such a score means nothing
    """
    values, low, high = (np.asarray(v, np.float64) for v in (returns, random, reference))
    if not np.all(high > low):
        raise ValueError(
            f"`reference` must be above `random` for every task, got {high.tolist()} and "
            f"{low.tolist()}; leave out tasks that the reference does not learn"
        )
    return (values - low) / (high - low)


def random_returns(suite: str) -> dict[str, float]:
    """Return the mean return of uniformly random actions for each task of a suite, as measured.

    :param suite: as ``"MinAtar/MTRL3"``
    :raises ValueError: if it was not measured
    """
    if suite not in RANDOM:
        raise ValueError(
            f"`suite` must be one of {sorted(RANDOM)}, got {suite!r}; add one with "
            "sb3_moe_envs.register_suite and measure it with python -m benchmarks.random_returns"
        )
    return {task: measured.mean for task, measured in RANDOM[suite].items()}
