"""How values are shown on a page: numbers, intervals and verdicts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from sb3_moe.study.report.verdict import Verdict

# As `number` and `interval` write them.
_NUMBER = re.compile(r"-?[\d,.]+(e[-+]?\d+)?( \[.*\])?")
# Nobody counts the digits of numbers from here on.
_LARGE = 1e9


class Field(NamedTuple):
    """A field of a table: its text, and the CSS class that it is shown with."""

    text: str
    css: str


def field(value: Any) -> Field:
    """Say how a value stands in a table."""
    if value in get_args(Verdict):
        return Field(value, f"verdict {value}")
    if isinstance(value, float):
        return Field(number(value), "number")
    if isinstance(value, int) and not isinstance(value, bool):
        return Field(f"{value:,}", "number")
    text = str(value)
    if _NUMBER.fullmatch(text):
        return Field(text, "number")
    # A word that no table has room for may be broken.
    return Field(text, "long" if max(map(len, text.split()), default=0) > 24 else "")


def columns_of_numbers(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return which columns of a table hold numbers, dashes for what is missing apart."""
    return {key for row in rows for key, value in row.items() if field(value).css == "number"}


def number(value: float) -> str:
    """Write a number with two or three significant digits, a dash for none."""
    # The script on the page has the same rule.
    value = _as_in_files(value)
    return f"{value:#.2g}" if 0 < abs(value) < 0.1 else _to_hundredths(value)


def interval(mean: float, low: float, high: float) -> str:
    """Write a number and its interval; the number alone where there is none.

    Beside one that is 0.1 or more, nobody needs more than the hundredths of the others.
    """
    if low != low:
        return number(mean)
    values = [_as_in_files(each) for each in (mean, low, high)]
    write = number if max(map(abs, values)) < 0.1 else _to_hundredths
    return "{} [{}, {}]".format(*map(write, values))


def _as_in_files(value: float) -> float:
    """Round as the CSV files do, so that what is made of them is the same."""
    return float(f"{value:.6g}")


def _to_hundredths(value: float) -> str:
    if value != value:
        return "-"
    if 0 < abs(value) < 0.005:
        return f"{value:.1g}"  # on which side of 0 it lies
    if abs(value) >= _LARGE:
        return f"{value:.2e}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(share: float) -> str:
    """Write a share in percent, with no digit more than it has: 97.5%."""
    return f"{100 * share:.4g}%"


def ground(share: float, signed: bool = False) -> str:
    """Give the style of a field: the darker, the larger a share is, with text that can be read.

    :param share: from 0 to 1, or from -1
    :param signed: whether shares are of both signs, in the colours that pictures have for these
    """
    above, below = ((127, 59, 8), (45, 0, 75)) if signed else ((0, 60, 110),) * 2
    darkest = above if share >= 0 else below
    red, green, blue = (round(255 + abs(share) * (end - 255)) for end in darkest)
    # White on what is darker than this: both then have a contrast of at least 4.5.
    text = "#fff" if _luminance(red, green, blue) < 0.179 else "#000"
    return f"background:rgb({red},{green},{blue});color:{text}"


def _luminance(*channels: int) -> float:
    """Return how bright a colour is, from 0 to 1, as the guidelines for readable pages count it."""
    parts = (channel / 255 for channel in channels)
    linear = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
