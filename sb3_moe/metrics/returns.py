"""Returns of uniformly random actions, measured: ``python -m benchmarks.random_returns``."""

from typing import NamedTuple


class Measured(NamedTuple):
    """A mean over episodes.

    :param mean: of the return
    :param standard_error: of that mean
    :param episodes: how many
    """

    mean: float
    standard_error: float
    episodes: int


# By suite and task: a suite's common action space is part of what random actions do.
RANDOM: dict[str, dict[str, Measured]] = {
    "MinAtar/MTRL3": {
        "SpaceInvaders": Measured(2.867, 0.071, 1000),
        "Breakout": Measured(0.536, 0.025, 1000),
        "Asterix": Measured(0.497, 0.027, 1000),
    },
    "MinAtar/CRL3": {
        "SpaceInvaders": Measured(2.867, 0.071, 1000),
        "Breakout": Measured(0.536, 0.025, 1000),
        "Asterix": Measured(0.497, 0.027, 1000),
    },
}
