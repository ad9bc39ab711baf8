"""Batches of observations or actions of any space, put together and taken apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.spaces.observations import ARRAYS


def join_batches(space: Space[Any], batches: Sequence[Any]) -> Any:
    """Join batches of observations or actions, one after the other.

    :param space: of one of them
    """
    # First, as it is cheapest to tell, and done for each task in each step.
    if isinstance(space, ARRAYS):
        return np.concatenate(batches)
    if isinstance(space, spaces.Dict):
        return {key: join_batches(space[key], [each[key] for each in batches]) for key in space}
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, zip(*batches, strict=True), strict=True)
        return tuple(join_batches(part, of_part) for part, of_part in parts)
    return tuple(itertools.chain(*batches))


def take_rows_of(space: Space[Any], batch: Any, rows: slice) -> Any:
    """Return some rows of a batch.

    :param space: of one row
    """
    if isinstance(space, ARRAYS):
        return batch[rows]
    if isinstance(space, spaces.Dict):
        return {key: take_rows_of(space[key], batch[key], rows) for key in space}
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, batch, strict=True)
        return tuple(take_rows_of(part, of_part, rows) for part, of_part in parts)
    return batch[rows]
