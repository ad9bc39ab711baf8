"""Measure how much processor time passes in which methods."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

# Owner and name of a method.
Timed = tuple[Any, str]
REST = "everything else"


class Stopwatch:
    """Measure the processor time and count the calls of methods.

    :param inner: whether a method inside another one counts for its own part, not the outer one's
    :param clock: a function that returns the seconds so far
    """

    def __init__(
        self, *, inner: bool = False, clock: Callable[[], float] = time.process_time
    ) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._inner, self._clock = inner, clock
        self._part, self._since = REST, 0.0

    @contextmanager
    def on(self, parts: Mapping[str, Iterable[Timed]]) -> Iterator[None]:
        """Watch methods while the block runs.

        :param parts: owner and name of each method, by the part for which they count
        """
        with ExitStack() as stack:
            for part, methods in parts.items():
                for owner, name in methods:
                    stack.enter_context(self._watched(part, owner, name))
            self._since = self._clock()
            yield
            self._turn(REST)

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count the time of the block for a part."""
        outer = self._part
        if outer != REST and not self._inner:
            yield
            return
        self._turn(part)
        self.calls[part] += 1
        try:
            yield
        finally:
            self._turn(outer)

    def _turn(self, part: str) -> None:
        now = self._clock()
        self.seconds[self._part] += now - self._since
        self._part, self._since = part, now

    @contextmanager
    def _watched(self, part: str, owner: Any, name: str) -> Iterator[None]:
        method, own = getattr(owner, name), name in vars(owner)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.during(part):
                return method(*args, **kwargs)

        setattr(owner, name, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, name, method)
            else:
                delattr(owner, name)
