"""Time things fairly: side by side, interleaved round by round, medians of ratios."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

Function = Callable[[], object]
Clock = Callable[[], float]


class Race:
    """Functions that take turns, so that whatever else the machine does hits all of them.

    :param functions: what to time, by name
    :param slice_s: how long each function runs in a round, in seconds; 0: one call
    :param warmups: calls before anything counts
    :param clock: a function that returns the seconds so far
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        *,
        slice_s: float = 0.02,
        warmups: int = 3,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._functions, self._clock = dict(functions), clock
        self._repeats = {
            name: _repeats(call, slice_s, warmups, clock) for name, call in functions.items()
        }
        self._turns = itertools.cycle([1, 1, -1, -1])
        gc.collect()

    def round(self) -> dict[str, float]:
        """Return the seconds per call of each function; two of four rounds go in reverse.

        Where two processes take turns, the first to go changes every round: in four rounds each
        process goes once in each order after a pause, which costs its first function the caches.
        """
        order = list(self._functions)[:: next(self._turns)]
        return {k: _time(self._functions[k], self._repeats[k], self._clock) for k in order}

    def rounds(self, count: int) -> dict[str, list[float]]:
        """Return the seconds per call of each function in each round."""
        return by_name([self.round() for _ in range(count)])


def by_name(rounds: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return each function's seconds, round by round."""
    return {name: [each[name] for each in rounds] for name in rounds[0]}


def paired(
    functions: Mapping[str, Function], *, rounds: int = 15, **arguments: Any
) -> dict[str, list[float]]:
    """Return the seconds per call of each function in each round.

    :param functions: what to time, by name
    :param rounds: how often to go round
    :param arguments: of :class:`Race`
    """
    return Race(functions, **arguments).rounds(rounds)


def clock_on(device: str) -> Clock:
    """Return the clock for a device: processor time for one thread on a CPU, else wall time.

    :param device: its kind, or its name
    """
    alone = device == "cpu" and th.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median over rounds of one function's time over another's."""
    return statistics.median(ratios(over, under))


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Return one function's time over another's in each round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def quartiles(values: list[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return np.quantile(values, (0.25, 0.5, 0.75)).tolist()


def _repeats(call: Function, slice_s: float, warmups: int, clock: Clock) -> int:
    for _ in range(warmups):
        call()
    return max(1, round(slice_s / max(_time(call, warmups, clock), 1e-9))) if slice_s else 1


def _time(call: Function, repeats: int, clock: Clock) -> float:
    if repeats > 1:
        call()  # fill the caches, in which another function left its data
    synchronize()
    start = clock()
    for _ in range(repeats):
        call()
    synchronize()
    return (clock() - start) / repeats


def synchronize() -> None:
    """Wait for the GPU, if there is one in use."""
    if th.cuda.is_available() and th.cuda.is_initialized():
        th.cuda.synchronize()


def bounded(
    name: str, value: float, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """Return a row of a table: a ratio, and whether it is as large or as small as it should be."""
    target = "" if at_least is None else f">= {at_least:g}"
    return {
        "name": name,
        "ratio": value,
        "target": target if at_most is None else f"<= {at_most:g}",
        "met": (at_least is None or value >= at_least) and (at_most is None or value <= at_most),
    }
