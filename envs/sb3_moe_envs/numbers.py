"""The one rule for numbers that a user gives: whole ones count, and none is infinite or a bool."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np


def whole(name: str, value: Any, minimum: int | None = 1) -> int:
    """Return a count as an int: a whole float, such as 1e5, is one.

    :param name: of the argument
    :param value: what was given
    :param minimum: the least that is allowed; None: any
    :raises ValueError: if it isn't a whole number, is too large for a float or below the minimum
    """
    if not _is_finite(name, value) or value != int(value):
        raise ValueError(f"`{name}` must be a whole number, got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value!r}")
    return int(value)


def optional_whole(name: str, value: Any, minimum: int = 1) -> int | None:
    """Return a count that may be None, as :func:`whole` does."""
    return None if value is None else whole(name, value, minimum)


def finite(name: str, value: Any) -> float:
    """Return a quantity as a float.

    :raises ValueError: if it isn't a finite number that a float can hold
    """
    if not _is_finite(name, value):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return a quantity above zero as a float.

    :raises ValueError: if it isn't a finite number above 0
    """
    if finite(name, value) <= 0:
        raise ValueError(f"`{name}` must be positive, got {value!r}")
    return float(value)


def _is_finite(name: str, value: Any) -> bool:
    numbers = (int, float, np.integer, np.floating)
    if not isinstance(value, numbers) or isinstance(value, bool):
        return False
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        # Not shown: Python writes out no int of more than 4300 digits.
        bits = value.bit_length()
        raise ValueError(f"`{name}` must be a number that a float can hold, got one of {bits} bits")
    return math.isfinite(value)
