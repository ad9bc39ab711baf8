"""Infos of vector environments: dicts of arrays with a row per environment, and masks `_key`.

This package's own classes pass infos to each other as a dict by row, in which rows without any may
be missing. They are stacked only once, at the end.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sb3_moe_envs.checks import Info, StepResult

_NUMBERS = (np.ndarray, np.generic, int, float)
# These keys describe the episode that ended; all others describe the current one.
FINAL = frozenset({"final_obs", "_final_obs", "final_info", "_final_info"})


class Rows(NamedTuple):
    """The results of a step of many environments, with infos as a dict by row."""

    observations: Any
    # Each of these three is an array, or a tuple, which is sent between processes faster.
    rewards: Any
    terminated: Any
    truncated: Any
    infos: dict[int, Info]
    #: last observation and info of each episode that ended, by row
    finals: dict[int, tuple[Any, Info]]

    def stacked(self) -> StepResult:
        """Return the results in the form that Gymnasium's vector environments use."""
        num_envs = len(self.rewards)
        flags = np.array([self.terminated, self.truncated], np.bool_)
        infos = stack(self.infos, num_envs) | stack_final(self.finals, num_envs)
        return self.observations, np.array(self.rewards, np.float64), flags[0], flags[1], infos


def stack(infos: Mapping[int, Info], num_envs: int) -> Info:
    """Stack the infos of single environments.

    Values of different shapes, and values that aren't numbers, become an array of objects. In
    Gymnasium's own vector environments the first value decides the array's shape and dtype; other
    values are cast to it, or raise an error.

    :param infos: by row; rows without an entry are masked
    :param num_envs: number of rows
    """
    stacked: Info = {}
    for key in dict.fromkeys(key for info in infos.values() for key in info):
        values = {row: info[key] for row, info in infos.items() if key in info}
        if all(isinstance(value, dict) for value in values.values()):
            stacked[key] = stack(values, num_envs)
        else:
            stacked[key] = _column(values, num_envs)
        mask = stacked[f"_{key}"] = np.zeros(num_envs, bool)
        mask[list(values)] = True
    return stacked


def stack_final(finals: Mapping[int, tuple[Any, Info]], num_envs: int) -> Info:
    """Stack the last observations and infos of the episodes that ended.

    :param finals: last observation and info, by row
    :param num_envs: number of rows
    :return: the entries of :data:`FINAL`; empty if no episode ended
    """
    if not finals:
        return {}
    final_obs = np.full(num_envs, None, dtype=object)
    for row, (obs, _) in finals.items():
        final_obs[row] = obs
    infos = stack({row: {"final_info": info} for row, (_, info) in finals.items()}, num_envs)
    return {"final_obs": final_obs, "_final_obs": infos["_final_info"].copy(), **infos}


def unstack(infos: Mapping[Any, Any], num_envs: int) -> list[Info]:
    """Return the infos of a vector environment, one for each row.

    :param infos: entries of :data:`FINAL`, and values without a row per environment, are left out
    """
    rows: list[Info] = [{} for _ in range(num_envs)]
    others = FINAL | {f"_{key}" for key in infos}
    for key, values in infos.items():
        if key in others:
            continue
        if isinstance(values, Mapping):
            values = unstack(values, num_envs)
        elif isinstance(values, np.ndarray) and values.ndim == 1:
            values = values.tolist()  # numpy's numbers become Python's
        has_rows = isinstance(values, list | tuple) or np.ndim(values) > 0
        if has_rows and len(values) == num_envs:
            mask = infos.get(f"_{key}")
            for row in range(num_envs) if mask is None else np.flatnonzero(mask).tolist():
                rows[row][key] = values[row]
    return rows


def _column(values: Mapping[int, Any], num_envs: int) -> np.ndarray:
    given = list(values.values())
    numbers = all(isinstance(value, _NUMBERS) for value in given)
    alike = numbers and len(set(map(np.shape, given))) == 1
    array = np.array(given if alike else None)
    column = np.full(num_envs, None, dtype=object)
    if array.dtype.kind in "biufc":
        column = np.zeros((num_envs, *array.shape[1:]), array.dtype)
    for row, value in values.items():
        column[row] = value
    return column
