"""Names of tasks and layers for a logger's keys: short, unlike each other, and plain.

SB3's table cuts what follows a key's tag to 33 characters, and raises where two are then the same.
Trackers take letters, digits and ``_ - . /``, in paths without empty parts and parts of dots.
MLflow can make a file of each, so that none may be a folder of others.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence

# HumanOutputFormat prints 36 characters, of which three are spaces in place of the tag.
PRINTED = 33
# The most with which eval/<task>/mean_ep_length is printed whole.
TASK = 18
# The longest of our own: vf_features.10; dormant_per_expert comes before it.
LAYER, MEASURE = 14, 18


def short_names(names: Sequence[str], length: int = TASK, taken: Collection[str] = ()) -> list[str]:
    """Return a name for each of these that fits a key; what fits already stays as it is.

    :param names: of any characters, also equal ones
    :param length: characters that a key has room for, at least 8
    :param taken: names that must not come out, nor what is within them or they are within
    """
    used = {*taken}
    stays = []
    for name in names:
        stays.append(len(name) <= length and name == _plain(name) and not _clashes(name, used))
        if stays[-1]:
            used.add(name)
    short = []
    for name, stay in zip(names, stays, strict=True):
        if not stay:
            name = _unlike(used, _cut(_plain(name), length), length)
            used.add(name)
        short.append(name)
    return short


def _plain(name: str) -> str:
    """Replace what a tracker refuses."""
    text = re.sub(r"[^A-Za-z0-9_.\-/]+", "_", name)
    text = text if text == name else text.strip("_")
    parts = [part for part in text.split("/") if part.strip(".")]
    return "/".join(parts) or "task"


def _cut(name: str, length: int) -> str:
    """Leave out the middle: variants of one environment mostly differ at their end."""
    if len(name) <= length:
        return name
    tail = (length - 2) * 2 // 3
    return f"{name[: length - 2 - tail]}--{name[-tail:]}"


def _unlike(used: Collection[str], name: str, length: int) -> str:
    """Make one folder's name of a name that is taken, or number it."""
    flat = name.replace("/", "_")
    numbers = (f"-{number}" for number in itertools.count(2))
    numbered = (flat[: length - len(end)] + end for end in numbers)
    each = itertools.chain([name, flat], numbered)
    return next(name for name in each if not _clashes(name, used))


def _clashes(name: str, used: Collection[str]) -> bool:
    """Tell whether a name is taken, as a file, as a folder or within a file."""
    return any(f"{one}/".startswith(f"{name}/") or name.startswith(f"{one}/") for one in used)
