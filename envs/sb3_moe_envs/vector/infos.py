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
        if all(isinstance(infos[key], dict) for _, infos in holders):
            nested = [(rows, infos[key]) for rows, infos in holders]
            joined[key] = join_infos(nested, num_envs)
        else:
            arrays = [(rows, np.asarray(infos[key])) for rows, infos in holders]
            joined[key] = _join_arrays(arrays, num_envs)
        joined[f"_{key}"] = np.zeros(num_envs, dtype=bool)
        for rows, infos in holders:
            joined[f"_{key}"][rows] = infos.get(f"_{key}", True)
    return joined


def join_final(parts: Sequence[tuple[Any, Infos]], num_envs: int) -> Infos:
    """Join what the infos of several vector environments say of the episodes that ended.

    :param parts: as of :func:`join_infos`
    :param num_envs: number of rows of the whole
    :return: empty where none ended
    """
    ended = [(rows, infos) for rows, infos in parts if "final_obs" in infos]
    if not ended:
        return {}
    final_obs, done = np.full(num_envs, None, dtype=object), np.zeros(num_envs, dtype=bool)
    for rows, infos in ended:
        final_obs[rows], done[rows] = infos["final_obs"], infos["_final_obs"]
    final_info = join_infos([(rows, infos["final_info"]) for rows, infos in ended], num_envs)
    return {
        "final_obs": final_obs,
        "_final_obs": done,
        "final_info": final_info,
        "_final_info": done.copy(),
    }


def take_rows(infos: Infos, rows: np.ndarray) -> Infos:
    """Return the infos of some rows."""
    return {
        key: take_rows(value, rows) if isinstance(value, dict) else np.asarray(value)[rows]
        for key, value in infos.items()
    }


def row_of(batch: Any, row: int) -> Any:
    """Return one row of a batch of observations, an array, a dict of batches or objects."""
    if isinstance(batch, dict):
        return {key: row_of(value, row) for key, value in batch.items()}
    return batch[row]


def _keys(infos: Infos) -> list[str]:
    return [key for key in infos if key not in FINAL and not (key[0] == "_" and key[1:] in infos)]


def _join_arrays(parts: Sequence[tuple[Any, np.ndarray]], num_envs: int) -> np.ndarray:
    arrays = [array for _, array in parts]
    alike = len({(array.shape[1:], array.dtype.kind) for array in arrays}) == 1
    if alike and arrays[0].dtype.kind != "O":
        joined = np.zeros((num_envs, *arrays[0].shape[1:]), np.result_type(*arrays))
        for rows, array in parts:
            joined[rows] = array
        return joined
    joined = np.full(num_envs, None, dtype=object)
    for rows, array in parts:
        for row, value in zip(np.arange(num_envs)[rows], array, strict=True):
            joined[row] = value
    return joined


def without_final(infos: dict[str, Any]) -> dict[str, Any]:
    """Return infos without what the episodes that ended left behind."""
    return {key: value for key, value in infos.items() if key not in FINAL}
