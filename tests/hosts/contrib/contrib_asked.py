"""Which placements a behaviour is asked of, and the table in ``docs/guests-contrib.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import contrib_guests as guests
import pytest
from contrib_behaviours import BEHAVIOURS
from contrib_cannot import CANNOT


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
                yield pytest.param(
                    algorithm,
                    placement,
                    *(value for _, value in chosen),
                    id="-".join([algorithm, placement, *(str(word) for word, _ in chosen)]),
                    marks=[] if k == (i + j) % len(choices) else pytest.mark.full,
                )


def table() -> str:
    """Return the table of ``docs/guests-contrib.md``."""
    lines = ["| sb3-contrib's tests | a policy | " + " | ".join(guests.PLACEMENTS) + " | why not |"]
    lines.append("|---|---|" + "---|" * len(guests.PLACEMENTS) + "---|")
    for key, row in BEHAVIOURS.items():
        kept = keeping(key)
        answers = ["yes" if placement in kept else "no" for placement in guests.PLACEMENTS]
        why = "; ".join(each.reason for each in CANNOT if each.behaviour == key)
        lines.append(f"| `{row.file}` | {row.text} | " + " | ".join(answers) + f" | {why} |")
    return "\n".join(lines)
