"""Of a test's product of arguments, cases enough to meet each value of each argument once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, TypeVar

import pytest

K = TypeVar("K")


def fewest(holdings: Mapping[K, set[Any]]) -> list[K]:
    """Return few keys that hold together all that any holds: always the one with most news.

    :param holdings: what each key holds; of several with as much news the first is taken
    """
    missing = set().union(*holdings.values())
    chosen = []
    while missing:
        best = max(holdings, key=lambda key: len(holdings[key] & missing))
        chosen.append(best)
        missing -= holdings[best]
    return chosen


def covering(cases: Mapping[str, Mapping[str, object]]) -> set[str]:
    """Return ids of cases in which every value of every argument stands at least once.

    Which one comes first depends on their ids alone, so that it is the same in every process, and
    two tests of the same product meet values in different company.

    :param cases: by id, each argument's value; values are told apart by their ``repr``
    """
    in_turn = sorted(cases, key=lambda case: sha256(case.encode()).digest())
    values = {case: {(name, repr(each)) for name, each in cases[case].items()} for case in in_turn}
    return set(fewest(values))


def leave_the_rest(items: Iterable[pytest.Item]) -> None:
    """Mark ``full`` what :func:`covering` leaves out of each test that is marked ``covering``."""
    tests = defaultdict(dict)
    for item in items:
        if item.get_closest_marker("covering") and not item.get_closest_marker("full"):
            tests[item.nodeid.partition("[")[0]][item.nodeid] = item
    for cases in tests.values():
        chosen = covering({case: item.callspec.params for case, item in cases.items()})
        for case in cases.keys() - chosen:
            cases[case].add_marker(pytest.mark.full)
