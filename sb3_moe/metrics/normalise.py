"""Returns as scores between a random agent (0) and a reference (1).

Shapes: N tasks, on the last axis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_moe.metrics.curves import Array


def normalise(returns: npt.ArrayLike, random: npt.ArrayLike, reference: npt.ArrayLike) -> Array:
    """Return (returns - random) / (reference - random).

    :param returns: (..., N)
    :param random: a random agent's mean returns, (N,): see :func:`random_returns`
    :param reference: a reference's mean returns, (N,), each above the random one: see
        :func:`reference_returns`
    :raises ValueError: if a reference is not above random: such a score means nothing
    """
    values, low, high = (np.asarray(v, np.float64) for v in (returns, random, reference))
    if not np.all(high > low):
        raise ValueError(
            f"`reference` must be above `random` for every task, got {high.tolist()} and "
            f"{low.tolist()}; leave out tasks that the reference does not learn"
        )
    return (values - low) / (high - low)
