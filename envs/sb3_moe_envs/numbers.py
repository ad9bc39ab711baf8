"""The one rule for numbers that a user gives: whole ones count, and none is infinite or a bool."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def whole(name: str, value: Any, minimum: int | None = 1) -> int:
    """Return a count as an int: a whole float, such as 1e5, is one.

    :param name: of the argument
    :param value: what was given
    :param minimum: the least that is allowed; None: any
    :raises ValueError: if it isn't a whole number or is below the minimum
    """
    if not _is_finite(value) or value != int(value):
        raise ValueError(f"`{name}` must be a whole number, got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value!r}")
    return int(value)


def optional_whole(name: str, value: Any, minimum: int = 1) -> int | None:
    """Return a count that may be None, as :func:`whole` does."""
    return None if value is None else whole(name, value, minimum)


def finite(name: str, value: Any) -> float:
    """Return a quantity as a float.

    :raises ValueError: if it isn't a finite number
    """
    if not _is_finite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return a quantity above zero as a float.

    :raises ValueError: if it isn't a finite number above 0
    """
    if finite(name, value) <= 0:
        raise ValueError(f"`{name}` must be positive, got {value!r}")
    return float(value)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.integer | np.floating)
    is_whole = isinstance(value, int)  # of any size, which `isfinite` doesn't take
    return is_number and not isinstance(value, bool) and (is_whole or math.isfinite(value))
