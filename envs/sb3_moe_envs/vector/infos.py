"""Infos of vector environments: dicts of arrays with a row per environment, and masks `_key`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

Infos = dict[str, Any]
# Handled apart from the rest: they describe the episode that ended.
FINAL = frozenset({"final_obs", "_final_obs", "final_info", "_final_info"})


class MixedInfos(VectorEnv[Any, Any, Any]):
    """Let the infos of copies differ in kind and shape, as :func:`join_infos` does.

    In Gymnasium's own, which this comes before, the first copy decides: what others say is cut to
    that, or can't be held.
    """

    def _add_info(
        self, vector_infos: Infos, env_info: dict[Any, Any], env_num: int
    ) -> dict[Any, Any]:
        if vector_infos and env_info:
            env_info = _make_room(vector_infos, env_info, env_num)
        return super()._add_info(vector_infos, env_info, env_num)


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
            arrays = [(rows, _column(infos[key], rows, num_envs)) for rows, infos in holders]
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


def _keys(infos: Infos) -> list[Any]:
    masks = {f"_{key}" for key in infos}
    return [key for key in infos if key not in FINAL and key not in masks]


def _join_arrays(parts: Sequence[tuple[Any, np.ndarray]], num_envs: int) -> np.ndarray:
    arrays = [array for _, array in parts]
    shape, dtype = _common([(array.shape[1:], array.dtype) for array in arrays])
    joined = _empty(num_envs, shape, dtype)
    for rows, array in parts:
        if dtype != np.object_:
            joined[rows] = array
            continue
        for row, value in zip(np.arange(num_envs)[rows], array, strict=True):
            joined[row] = value
    return joined


def _common(kinds: Sequence[tuple[tuple[int, ...], Any]]) -> tuple[tuple[int, ...], Any]:
    """Return which shape and dtype hold rows of all these; objects where they aren't alike."""
    dtypes = [np.dtype(dtype) for _, dtype in kinds]
    alike = len({(shape, dtype.kind) for (shape, _), dtype in zip(kinds, dtypes, strict=True)}) == 1
    if alike and dtypes[0].kind != "O":
        return kinds[0][0], np.result_type(*dtypes)
    return (), np.dtype(object)


def _empty(num_rows: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if dtype == np.object_:
        return np.full(num_rows, None, dtype=object)
    return np.zeros((num_rows, *shape), dtype)


def _make_room(infos: Infos, info: dict[Any, Any], row: int) -> dict[Any, Any]:
    """Widen the columns that can't hold a row's info as it is; return what isn't in them yet."""
    rest = dict(info)
    for key, value in info.items():
        if key in infos and f"_{key}" not in infos:  # what is called like another's mask
            del rest[key]
        elif key in infos and key != "final_obs":
            mask = infos[f"_{key}"]
            infos[key] = column = _widened(infos[key], mask, value)
            # Gymnasium takes every dict for more columns.
            if isinstance(value, dict) and not isinstance(column, dict):
                column[row], mask[row] = rest.pop(key), True
    return rest


def _widened(column: Any, mask: np.ndarray, value: Any) -> Any:
    """Return a column, with the rows of its mask, that can hold a value as it is.

    :param column: an array, or a dict of columns
    """
    if isinstance(column, dict):
        return column if isinstance(value, dict) else _dicts(column, mask)
    if column.dtype == np.object_ and column.ndim == 1:
        return column
    shape, dtype = _common([(column.shape[1:], column.dtype), _kind_of(value)])
    if dtype == column.dtype:
        return column
    wider = _empty(len(column), shape, dtype)
    for row in mask.nonzero()[0].tolist():
        wider[row] = column[row]
    return wider


def _kind_of(value: Any) -> tuple[tuple[int, ...], Any]:
    """Return the shape and dtype that Gymnasium's vector environments keep a value in."""
    if isinstance(value, np.ndarray | np.number):
        return value.shape, value.dtype
    return (), type(value) if type(value) in (int, float, bool) else object


def _column(value: Any, rows: Any, num_envs: int) -> np.ndarray:
    """Return an array of rows, also of what came as a dict of columns, or as one for all rows."""
    num_rows = len(np.arange(num_envs)[rows])
    if isinstance(value, dict):
        return _dicts(value, np.ones(num_rows, dtype=bool))
    if isinstance(value, np.ndarray) and value.ndim and len(value) == num_rows:
        return value
    is_rows = isinstance(value, list | tuple) and len(value) == num_rows
    column = np.full(num_rows, None, dtype=object)
    for row, each in enumerate(value if is_rows else [value] * num_rows):
        column[row] = each
    return column


def _dicts(columns: Infos, mask: np.ndarray) -> np.ndarray:
    """Return a column of dicts, one for each row of the mask, in place of a dict of columns."""
    dicts = np.full(len(mask), None, dtype=object)
    for row in mask.nonzero()[0].tolist():
        dicts[row] = _dict_of(columns, row)
    return dicts


def _dict_of(columns: Infos, row: int) -> dict[Any, Any]:
    return {
        key: _dict_of(columns[key], row) if isinstance(columns[key], dict) else columns[key][row]
        for key in _keys(columns)
        if f"_{key}" not in columns or columns[f"_{key}"][row]
    }


def without_final(infos: dict[str, Any]) -> dict[str, Any]:
    """Return infos without what the episodes that ended left behind."""
    return {key: value for key, value in infos.items() if key not in FINAL}
