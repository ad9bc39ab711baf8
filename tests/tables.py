"""What another package's tests ask of its policies, and which placements of ours can't do it.

Behaviours are the rows of a table, placements its columns; a page of ``docs`` shows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

T = TypeVar("T")
PLACEMENTS = ("none", "middle", "final", "big")
# More than one router, so that what is kept beside the weights is asked too.
ROUTERS = {"final": {"router": "top_k", "top_k": 2}, "big": {"num_experts": 2}}


class Behaviour(NamedTuple):
    """A row of a table.

    :param file: of the other package's tests that ask for it
    :param text: what a policy does
    """

    file: str
    text: str


class Cannot(NamedTuple):
    """What a placement can't do.

    :param behaviour: a key of the table's behaviours
    :param placement: who can't
    :param reason: why, a sentence for the table
    :param error: a pattern of what it says
    :param attempts: what is refused, by name
    :param kind: of the error
    """

    behaviour: str
    placement: str
    reason: str
    error: str
    attempts: Mapping[str, Callable[[], object]]
    kind: type[Exception] = ValueError


class Table:
    """Behaviours, and the exceptions to them.

    :param behaviours: by a word that tests name
    :param cannot: the exceptions
    :param everyone: algorithms of which a behaviour is asked unless a test names others
    """

    def __init__(
        self, behaviours: Mapping[str, Behaviour], cannot: Sequence[Cannot], everyone: Sequence[str]
    ) -> None:
        self.behaviours = behaviours
        self.cannot = cannot
        self.everyone = everyone

    def keeping(self, behaviour: str) -> list[str]:
        """Return the placements that a behaviour is asked of: all but the exceptions."""
        cannot = {each.placement for each in self.cannot if each.behaviour == behaviour}
        return [placement for placement in PLACEMENTS if placement not in cannot]

    def over(
        self,
        behaviour: str,
        algorithms: Sequence[str] | None = None,
        **options: Mapping[str, Any],
    ) -> Callable[[T], T]:
        """Parametrise a test over algorithms, the placements that keep a behaviour, and options.

        Each is met once, in other company than in other tests; the rest of the product is marked
        ``full``.

        :param behaviour: a key of the behaviours
        :param algorithms: the test's ``algorithm``; None for everyone
        :param options: further arguments of the test, each a dict from a word to a value
        """
        asked = self.everyone if algorithms is None else algorithms
        cases = pytest.mark.parametrize(
            ("algorithm", "placement", *options),
            list(_parameters(asked, self.keeping(behaviour), list(options.values()))),
        )
        return lambda test: pytest.mark.covering(cases(test))

    def lines(self, whose: str) -> list[str]:
        """Return the table for a page of ``docs``.

        :param whose: the heading of the column with the other package's test files
        """
        lines = [f"| {whose} | a policy | {' | '.join(PLACEMENTS)} | why not |"]
        lines.append("|---|---|" + "---|" * len(PLACEMENTS) + "---|")
        for key, row in self.behaviours.items():
            kept = self.keeping(key)
            answers = ["yes" if placement in kept else "no" for placement in PLACEMENTS]
            why = "; ".join(each.reason for each in self.cannot if each.behaviour == key)
            lines.append(f"| `{row.file}` | {row.text} | {' | '.join(answers)} | {why} |")
        return lines

    def attempts(self) -> list[Any]:
        """Return a parameter, exception and attempt, for all that must be refused."""
        return [
            pytest.param(each, attempt, id=f"{each.behaviour}-{each.placement}-{name}")
            for each in self.cannot
            for name, attempt in each.attempts.items()
        ]

    def files(self) -> list[str]:
        """Return the names of the other package's test files."""
        return sorted({row.file for row in self.behaviours.values()})

    def check_asked(self, file: str, ours: Path) -> None:
        """Fail unless our test file asks for what theirs does, and for nothing else."""
        rows = {key for key, row in self.behaviours.items() if row.file == file}
        assert set(re.findall(r'asked\.over\(\s*"([^"]+)"', ours.read_text())) == rows

    def check_exceptions(self) -> None:
        """Fail unless each exception is of a behaviour and says why in a sentence."""
        for each in self.cannot:
            assert each.behaviour in self.behaviours
            assert each.placement in PLACEMENTS
            assert each.attempts
            assert 20 < len(each.reason) < 200


def check_refused(exception: Cannot, attempt: Callable[[], object]) -> None:
    """Fail unless an attempt is refused in one line, in the exception's words."""
    with pytest.raises(exception.kind, match=exception.error) as refusal:
        attempt()
    assert "\n" not in str(refusal.value)


def _parameters(
    algorithms: Sequence[str], placements: Sequence[str], options: Sequence[Mapping[str, Any]]
) -> Iterator[Any]:
    for algorithm, placement in product(algorithms, placements):
        for chosen in product(*(each.items() for each in options)):
            yield pytest.param(
                algorithm,
                placement,
                *(value for _, value in chosen),
                id="-".join([algorithm, placement, *(str(word) for word, _ in chosen)]),
            )
