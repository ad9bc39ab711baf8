"""How many digits returns are written with, be they in the hundreds or below 1."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def decimals(values: npt.ArrayLike) -> int:
    """Return how many decimals give the largest value three digits: 1 at least, 6 at most.

    >>> [decimals(each) for each in ([500.0, 9.6], [9.6], [0.25, -0.5])]
    [1, 2, 3]

    :param values: that stand side by side, of any shape; those that are not finite don't count
    """
    sizes = np.abs(np.asarray(values, np.float64))
    largest = float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))
    return min(max(2 - math.floor(math.log10(largest)), 1), 6) if largest else 1
