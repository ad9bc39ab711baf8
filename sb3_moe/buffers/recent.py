"""The latest of what a run has seen, a few rows of each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# Of so many copies one is kept in each step, in turn: rows of one step are alike.
STRIDE = 8


class RecentRows:
    """Keep some of the latest rows of every copy, in a dict that a model may remember.

    :param size: how many
    :param kept: what an earlier one left, or an empty dict; it changes in place
    """

    def __init__(self, size: int, kept: dict[str, Any]) -> None:
        self.size = size
        self.kept = kept
        if any(name != "written" and len(ring) != size for name, ring in kept.items()):
            kept.clear()  # of another size

    def add(self, step: int, columns: Mapping[str, np.ndarray]) -> None:
        """Keep some rows of a step.

        :param step: of the environments, which says whose turn it is
        :param columns: (n_envs, ...) each
        """
        written = self.kept.setdefault("written", 0)
        stride = min(STRIDE, len(next(iter(columns.values()))))
        for name, column in columns.items():
            rows = column[step % stride :: stride][: self.size]
            shape = (self.size, *rows.shape[1:])
            ring = self.kept.setdefault(name, np.zeros(shape, rows.dtype))
            ring[(written + np.arange(len(rows))) % self.size] = rows
            self.kept["written"] = written + len(rows)

    def latest(self) -> dict[str, np.ndarray]:
        """Return every column, oldest row first."""
        written = self.kept.get("written", 0)
        count = min(written, self.size)
        order = (written - count + np.arange(count)) % self.size
        return {name: ring[order] for name, ring in self.kept.items() if name != "written"}
