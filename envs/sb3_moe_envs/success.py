"""Whether an episode succeeded: whether any of its steps said so.

Shapes: B slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

KEYS = ("is_success", "success")
# Of an episode in which no step has said anything.
UNSAID = float("nan")
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


def succeeded(so_far: float, info: Mapping[str, Any]) -> float:
    """Return 1 if a step of the episode has said so, 0 if one has denied it, else NaN.

    :param so_far: what this returned for the step before, NaN at first
    :param info: of a step; what is neither a number nor an array or list of numbers says nothing
    """
    for key in KEYS:
        if key in info:
            so_far = float(np.fmax(so_far, _said(info[key])))
    return so_far


def succeeded_rows(so_far_B: np.ndarray, infos: Mapping[str, Any], rows_B: np.ndarray) -> None:
    """Follow the steps of many environments, in place.

    :param so_far_B: as of :func:`succeeded`, one for each slot
    :param infos: of a vector environment, with masks ``_key``
    :param rows_B: the slots of whose steps these infos are
    """
    for key in KEYS:
        if key in infos:
            said_B = rows_B & infos.get(f"_{key}", True)
            so_far_B[said_B] = np.fmax(so_far_B[said_B], _said_rows(infos[key], said_B))


def _said(value: Any) -> float:
    """Return 1 or 0 for a number or an array or list of them, NaN for what answers nothing.

    An array says so if any of its entries does.
    """
    if isinstance(value, np.ndarray | list | tuple):
        entries = value.ravel() if isinstance(value, np.ndarray) else value
        return float(np.fmax.reduce([_said(entry) for entry in entries], initial=UNSAID))
    if not isinstance(value, _NUMBERS) or value != value:  # NaN alone is not itself
        return UNSAID
    return float(value > 0)


def _said_rows(column: Any, rows_B: np.ndarray) -> np.ndarray:
    """Return what some rows of a column of infos say."""
    if isinstance(column, Mapping):  # what a dict holds is of something else
        return np.full(int(rows_B.sum()), UNSAID)
    values = np.asarray(column)[rows_B]
    if values.ndim == 1 and values.dtype.kind in "biuf":
        return np.where(np.isnan(values), UNSAID, values > 0)
    return np.array([_said(value) for value in values], dtype=np.float64)
