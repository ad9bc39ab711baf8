"""Infos of vector environments: dicts of arrays with a row per environment, and masks `_key`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Infos = dict[str, Any]
# Handled apart from the rest: they describe the episode that ended.
FINAL = frozenset({"final_obs", "_final_obs", "final_info", "_final_info"})


def join_infos(parts: Sequence[tuple[Any, Infos]], num_envs: int) -> Infos:
    """Join the infos of several vector environments into those of one.

    Arrays of different shapes or kinds become one array of objects.

    :param parts: (rows, infos): rows are a slice or indices of the whole
    :param num_envs: number of rows of the whole
    """
    joined: Infos = {}
    for key in dict.fromkeys(key for _, infos in parts for key in _keys(infos)):
        holders = [(rows, infos) for rows, infos in parts if key in infos]
        values = [infos[key] for _, infos in holders]
        if all(isinstance(value, dict) for value in values):
            nested = [(rows, infos[key]) for rows, infos in holders]
            joined[key] = join_infos(nested, num_envs)
        else:
            joined[key] = _empty(values, num_envs)
            for (rows, _), value in zip(holders, values, strict=True):
                joined[key][rows] = value
        joined[f"_{key}"] = np.zeros(num_envs, dtype=bool)
        for rows, infos in holders:
            joined[f"_{key}"][rows] = infos.get(f"_{key}", True)
    return joined


def take_rows(infos: Infos, rows: np.ndarray) -> Infos:
    """Return the infos of some rows."""
    return {
        key: take_rows(value, rows) if isinstance(value, dict) else np.asarray(value)[rows]
        for key, value in infos.items()
    }


def row_of(batch: Any, row: int) -> Any:
    """Return one row of a batch of observations, an array, a dict of arrays or objects."""
    if isinstance(batch, dict):
        return {key: value[row] for key, value in batch.items()}
    return batch[row]


def _keys(infos: Infos) -> list[str]:
    return [key for key in infos if key not in FINAL and not (key[0] == "_" and key[1:] in infos)]


def _empty(values: Sequence[Any], num_envs: int) -> np.ndarray:
    arrays = [np.asarray(value) for value in values]
    if len({array.shape[1:] for array in arrays}) == 1:
        dtype = np.result_type(*arrays) if len({a.dtype.kind for a in arrays}) == 1 else object
        return np.zeros((num_envs, *arrays[0].shape[1:]), dtype)
    return np.full(num_envs, None, dtype=object)
