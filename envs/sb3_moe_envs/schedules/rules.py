"""Stop rules such as "steps>=1e5 and return>=200": parsed and checked, never run as code."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

_TOKEN = re.compile(
    r"\s*(?:(\d+(?:_\d+)*\.?\d*(?:[eE][+-]?\d+)?)|([a-z_]+)|(>=|<=|>|<|==|[()&|-]))"
)
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_SIGNS = {"&": "and", "|": "or"}
Test = Callable[[Mapping[str, float]], bool]


class Rule:
    """A condition on named numbers; a number that isn't known yet (nan) fails its comparison.

    :param text: comparisons of a name with a number, joined by `and`, `or` and parentheses
    :param names: the names that may occur
    :raises TypeError: if it is no text
    :raises ValueError: if the text can't be read or has another name
    """

    def __init__(self, text: str, names: Sequence[str]) -> None:
        if not isinstance(text, str):
            raise TypeError(
                f"`rule` must be a text such as 'steps>=1e5 and return>=200', got {text!r}"
            )
        self.text, self.names = text, tuple(names)
        parser = _Parser(text, names)
        self._test = parser.any_of()
        if parser.next is not None:
            parser.fail(f"the end, not {parser.next!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        # What was parsed are closures, which can't be sent to a worker process.
        return type(self), (self.text, self.names)

    def __call__(self, values: Mapping[str, float]) -> bool:
        """Say whether the condition holds."""
        return self._test(values)


@dataclass
class _Parser:
    """Recursive descent over: any_of = all_of {or all_of}; all_of = test {and test}."""

    text: str
    names: Sequence[str]
    tokens: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = []
        position, text = 0, self.text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self.fail(f"no {text[position:].lstrip()[0]!r}")
            token = match[match.lastindex or 0]
            self.tokens.append(_SIGNS.get(token, token))
            position = match.end()

    @property
    def next(self) -> str | None:
        return self.tokens[0] if self.tokens else None

    def any_of(self) -> Test:
        tests = [self.all_of()]
        while self.next == "or":
            self.take()
            tests.append(self.all_of())
        return lambda values: any(test(values) for test in tests)

    def all_of(self) -> Test:
        tests = [self.test()]
        while self.next == "and":
            self.take()
            tests.append(self.test())
        return lambda values: all(test(values) for test in tests)

    def test(self) -> Test:
        if self.next == "(":
            self.take()
            inside = self.any_of()
            if self.take() != ")":
                self.fail("a closing parenthesis")
            return inside
        return self.comparison()

    def comparison(self) -> Test:
        name = self.take()
        if name not in self.names:
            self.fail(f"one of {list(self.names)}, not {name!r}")
        sign = self.take()
        if sign not in _COMPARISONS:
            self.fail(f"one of {list(_COMPARISONS)} after {name!r}, not {sign!r}")
        compare, number = _COMPARISONS[sign], self.number()
        return lambda values: compare(values[name], number)

    def number(self) -> float:
        token = self.take()
        sign = -1.0 if token == "-" else 1.0
        if token == "-":
            token = self.take()
        if not token[:1].isdigit():
            self.fail(f"a number, not {token!r}")
        if not math.isfinite(float(token)):
            self.fail(f"a finite number, not {token!r}")
        return sign * float(token)

    def take(self) -> str:
        return self.tokens.pop(0) if self.tokens else ""

    def fail(self, expected: str) -> NoReturn:
        raise ValueError(
            "`rule` must be comparisons such as 'steps>=1e5 and return>=200', with "
            f"{expected}, got {self.text!r}"
        )
