"""Batches of observations, arrays or dicts of arrays, as environments and buffers give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Obs = npt.NDArray[Any] | dict[str, npt.NDArray[Any]]


def select(obs: Obs, index: Any) -> Obs:
    """Take some samples of a batch of observations."""
    if isinstance(obs, dict):
        return {key: value[index] for key, value in obs.items()}
    return obs[index]


def concatenate(batches: Sequence[Obs]) -> Obs:
    """Join batches of observations of one space."""
    dicts = [batch for batch in batches if isinstance(batch, dict)]
    if dicts:
        return {key: np.concatenate([batch[key] for batch in dicts]) for key in dicts[0]}
    return np.concatenate([batch for batch in batches if not isinstance(batch, dict)])
