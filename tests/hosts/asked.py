"""Which placements a behaviour is asked of, and the table of it all in ``docs/guests.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import guests
import pytest
from behaviours import BEHAVIOURS
from cannot import CANNOT, DIFFERENCES


def keeping(behaviour: str) -> list[str]:
    """Return the placements that a behaviour is asked of: all but the exceptions."""
    cannot = {each.placement for each in CANNOT if each.behaviour == behaviour}
    return [placement for placement in guests.PLACEMENTS if placement not in cannot]


def over(
    behaviour: str, algorithms: Sequence[str] = guests.EVERY, **options: Mapping[str, Any]
) -> pytest.MarkDecorator:
    """Parametrise a test over algorithms, the placements that keep a behaviour, and options.

    Every algorithm meets every placement; of the options each such pair takes one, in turn, and
    the rest of the product is marked ``full``.

    :param behaviour: a key of ``BEHAVIOURS``
    :param algorithms: the test's ``algorithm``
    :param options: further arguments of the test, each a dict from a word to a value
    """
    return pytest.mark.parametrize(
        ("algorithm", "placement", *options),
        list(_parameters(algorithms, keeping(behaviour), list(options.values()))),
    )


def _parameters(
    algorithms: Sequence[str], placements: Sequence[str], options: Sequence[Mapping[str, Any]]
) -> Iterator[Any]:
    choices = list(product(*(each.items() for each in options)))
    for i, algorithm in enumerate(algorithms):
        for j, placement in enumerate(placements):
            for k, chosen in enumerate(choices):
                words = [str(word) for word, _ in chosen]
                yield pytest.param(
                    algorithm,
                    placement,
                    *(value for _, value in chosen),
                    id="-".join([algorithm, placement, *words]),
                    marks=[] if k == (i + j) % len(choices) else pytest.mark.full,
                )


YES, NO = "yes", "no"


def table() -> str:
    """Return the two tables of ``docs/guests.md``."""
    lines = ["| SB3's tests | a policy | " + " | ".join(guests.PLACEMENTS) + " | why not |"]
    lines.append("|---|---|" + "---|" * len(guests.PLACEMENTS) + "---|")
    for key, row in BEHAVIOURS.items():
        kept = keeping(key)
        answers = [YES if placement in kept else NO for placement in guests.PLACEMENTS]
        why = "; ".join(e.reason for e in CANNOT if e.behaviour == key)
        lines.append(f"| `{row.file}` | {row.text} | " + " | ".join(answers) + f" | {why} |")
    lines += ["", "| SB3's tests | SB3's policies | ours, `none` too |", "|---|---|---|"]
    lines += [f"| `{d.file}` | {d.theirs} | {d.ours} |" for d in DIFFERENCES.values()]
    return "\n".join(lines)
