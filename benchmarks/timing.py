"""Time things fairly: side by side, interleaved round by round, medians of ratios."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch as th

Function = Callable[[], object]
Clock = Callable[[], float]


def paired(
    functions: Mapping[str, Function],
    *,
    rounds: int = 15,
    slice_s: float = 0.02,
    warmups: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds per call of each function in each round.

    In a round every function runs for about ``slice_s``, one after the other, so that whatever else
    the machine does in that time hits all of them. Every other round goes in reverse.

    :param functions: what to time, by name
    :param rounds: how often to go round
    :param slice_s: how long each function runs in a round, in seconds
    :param warmups: calls before anything counts
    :param clock: what tells the seconds
    """
    repeats = {name: _repeats(call, slice_s, warmups, clock) for name, call in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    for index in range(rounds):
        for name in list(functions)[:: 1 if index % 2 == 0 else -1]:
            seconds[name].append(_time(functions[name], repeats[name], clock))
    return seconds


def clock_on(device: str) -> Clock:
    """Return what times a device: one thread's own time on a CPU, whoever else uses the machine.

    :param device: its kind, or its name
    """
    alone = device == "cpu" and th.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median over rounds of one function's time over another's."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _repeats(call: Function, slice_s: float, warmups: int, clock: Clock) -> int:
    for _ in range(warmups):
        call()
    return max(1, round(slice_s / max(_time(call, warmups, clock), 1e-9)))


def _time(call: Function, repeats: int, clock: Clock) -> float:
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


def bounded(name: str, value: float, at_least: float | None = None) -> dict[str, object]:
    """Return a row of a table: a ratio, and whether it is as large as it is meant to be."""
    target = "" if at_least is None else f">= {at_least:g}"
    return {
        "name": name,
        "ratio": value,
        "target": target,
        "met": at_least is None or value >= at_least,
    }
