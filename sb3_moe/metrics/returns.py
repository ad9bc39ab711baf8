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


RANDOM: dict[str, Measured] = {}
