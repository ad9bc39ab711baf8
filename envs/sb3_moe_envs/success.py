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


def succeeded(so_far: float, info: Mapping[str, Any]) -> float:
    """Return 1 if a step of the episode has said so, 0 if one has denied it, else NaN.

    :param so_far: what this returned for the step before, NaN at first
    :param info: of a step
    """
    said = [float(info[key] > 0) for key in KEYS if info.get(key) is not None]
    return float(np.fmax.reduce([so_far, *said]))


def succeeded_rows(so_far_B: np.ndarray, infos: Mapping[str, Any], rows_B: np.ndarray) -> None:
    """Follow the steps of many environments, in place.

    :param so_far_B: as of :func:`succeeded`, one for each slot
    :param infos: of a vector environment, with masks ``_key``
    :param rows_B: the slots of whose steps these infos are
    """
    for key in KEYS:
        if key in infos:
            said_B = rows_B & infos.get(f"_{key}", True)
            # None, where only some tasks say something, becomes NaN.
            values = np.asarray(infos[key], dtype=np.float64)[said_B]
            now = np.where(np.isnan(values), np.nan, values > 0)
            so_far_B[said_B] = np.fmax(so_far_B[said_B], now)
