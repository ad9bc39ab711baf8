"""Checks of the values of options, each with its error message."""

from collections.abc import Collection, Sequence
from numbers import Integral, Real


def whole(name: str, value: object, least: int = 1) -> None:
    """Raise unless a value is a whole number of at least ``least``, Python's own or numpy's."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be an int, got {value!r}")
    if int(value) < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}")


def whole_or_none(name: str, value: object) -> None:
    """Raise unless a value is None or a whole number of at least 1."""
    if value is not None:
        whole(name, value)


def numbers_below(name: str, values: object, bound: int, of: str) -> None:
    """Raise unless values are numbers of experts below ``bound``, each named once.

    :param of: name of the mixture that has the experts
    """
    if isinstance(values, str) or not isinstance(values, Collection):
        raise TypeError(f"`{name}` must be a list of numbers of experts, got {values!r}")
    for each in values:
        whole(name, each, least=0)
        if each >= bound:
            raise ValueError(f"`{name}` must be in [0, num_experts={bound}) of {of}, got {each}")
    if len(set(values)) < len(values):
        raise ValueError(f"`{name}` must name each expert once, got {list(values)}")


def number(name: str, value: object) -> float:
    """Return a number, Python's own or numpy's, as a float; raise for other values."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    return float(value)


def not_negative(name: str, value: object) -> None:
    """Raise unless a value is a finite number of at least 0, Python's own or numpy's."""
    if not 0.0 <= number(name, value) < float("inf"):
        raise ValueError(f"`{name}` must be at least 0 and finite, got {value}")


def widths(name: str, value: object) -> None:
    """Raise unless a value is a sequence of whole numbers of at least 1, as widths are."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"`{name}` must be a list of whole numbers, got {value!r}")
    for each in value:
        whole(name, each)


def positive(name: str, value: object, at_most: float = float("inf")) -> None:
    """Raise unless a value is a number greater than 0 and at most ``at_most``."""
    if not 0.0 < number(name, value) <= at_most:
        raise ValueError(f"`{name}` must be in (0, {at_most}], got {value}")


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise ValueError unless a value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}, got {value!r}")
