"""Observations of training itself, for where no environment can be built beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_moe.observations.batches import Obs, concatenate, select


class Watched:
    """Keep every so many steps' observations until there are enough.

    :param size: observations altogether
    :param stride: steps between those that are kept, each of all environments
    """

    def __init__(self, size: int, stride: int) -> None:
        self.size = size
        self.stride = stride
        self._steps = 0
        self._kept: list[Obs] = []

    def add(self, obs: Any) -> None:
        """Look at the observations of a step."""
        if self._steps % self.stride == 0:
            # A copy: some environments write into one array over and over.
            self._kept.append(select(obs, np.arange(_length(obs))))
        self._steps += 1

    def __len__(self) -> int:
        return sum(map(_length, self._kept))

    def batch(self) -> Obs:
        """Return what there is, evenly spread if it is more than enough."""
        return spread(concatenate(self._kept), min(self.size, len(self)))


def spread(batch: Obs, count: int) -> Obs:
    """Take so many samples of a batch, evenly spread."""
    return select(batch, np.arange(count) * _length(batch) // count)


def _length(obs: Obs) -> int:
    return len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
