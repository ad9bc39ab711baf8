"""Gymnasium's infos of a vector environment, dealt out to its environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def rows_of(vector_infos: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Turn a dict of arrays into one dict for each environment.

    :param vector_infos: arrays of ``num_envs`` rows or dicts of these; where there is a mask
        ``"_key"``, only the rows it marks are dealt out; what has no row for each is left out
    :param num_envs: number of environments
    """
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    masks = {f"_{key}" for key in vector_infos}
    for key, value in vector_infos.items():
        if key in masks:
            continue
        column = _column(value, num_envs)
        if column is None:
            continue
        mask = vector_infos.get(f"_{key}")
        for i in range(num_envs) if mask is None else np.flatnonzero(mask):
            rows[i][key] = column[i]
    return rows


def row_of(batch: Any, index: int) -> Any:
    """Return one environment's part of a batch: a row, or a dict of rows."""
    if isinstance(batch, Mapping):
        return {key: row_of(value, index) for key, value in batch.items()}
    return batch[index]


def _column(value: Any, num_envs: int) -> list[Any] | None:
    if isinstance(value, Mapping):
        return list(rows_of(value, num_envs))
    if isinstance(value, np.ndarray) and value.ndim == 1 and len(value) == num_envs:
        return list(value.tolist())  # plain Python numbers
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return None
    if isinstance(value, np.ndarray | list | tuple) and len(value) == num_envs:
        return list(value)
    return None
