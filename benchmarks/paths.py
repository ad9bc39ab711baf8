"""Both sides of every limit of ``sb3_moe/layers/paths.py``, at sizes below, at and above it.

A ratio above 1 says that the way for large sizes is faster there: the limit is right where the
ratio crosses 1.

Shapes: T rows of one token, D features, H hidden, E experts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch as th
from torch import nn

from benchmarks.layers import forward_backward, make_layer
from benchmarks.timing import Function, bounded, paired, ratio
from sb3_moe.layers import keep_freed_memory, paths

NEVER = 10**15


class Case(NamedTuple):
    """One size at which both ways of a limit are timed.

    :param limit: its name in the table
    :param make: the layer
    :param shape: of the input, (T, N, D)
    :param others: other limits that hold on both sides
    :param above: a limit that every size is above
    """

    limit: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    others: dict[str, int]
    above: int = 0


def top_1(T: int, D: int, H: int, E: int) -> tuple[Callable[[], nn.Module], tuple[int, int, int]]:
    return lambda: make_layer("top_k", D, H, E), (T, 1, D)


def soft(
    T: int, D: int, H: int, E: int, *, N: int = 1, S: int = 1
) -> tuple[Callable[[], nn.Module], tuple[int, int, int]]:
    return lambda: make_layer("soft", D, H, E, num_slots=S), (T, N, D)


def cases() -> Iterator[Case]:
    loop, grouped = {"GROUPED_FROM": NEVER}, {"GROUPED_FROM": 1}
    for rows in (64, 256, 1024):
        yield Case("MASK_LIMIT", *top_1(rows, 64, 64, 4), loop)
        yield Case("MASK_LIMIT", *top_1(rows, 64, 64, 16), grouped)
    for experts in (4, 8, 16, 64):
        yield Case("GROUPED_FROM", *top_1(2048, 64, 64, experts), {"MASK_LIMIT": -1})
    for rows in (256, 1024, 4096):
        yield Case("ONE_BY_ONE_FROM", *soft(rows, 64, 64, 8), {})
    for width in (256, 512, 1024):
        yield Case("WIDE_GEMM_LIMIT", *soft(64, width, width, 4), {"ONE_BY_ONE_FROM": NEVER})
    for batch in (64, 256, 1024):
        # Also how large a chunk then is.
        chunk = paths.CHUNK_SCORES
        yield Case("CHUNK_SCORES", *soft(batch, 16, 64, 4, N=64, S=16), {}, above=chunk)
    for experts in (8, 16, 32, 64, 256):
        yield Case("LONG_AXIS_FROM", *top_1(2048, 16, 16, experts), {"GROUPED_FROM": 1})


def run(device: str = "cpu", rounds: int = 9) -> list[dict[str, Any]]:
    """Measure every case, forward and backward.

    :param device: where to run
    :param rounds: interleaved rounds per comparison
    """
    keep_freed_memory()
    return [measure(case, device, rounds) for case in cases()]


def measure(case: Case, device: str, rounds: int) -> dict[str, Any]:
    """Time a layer as for sizes below the limit and as for those above it."""
    layer, x = case.make().to(device), th.randn(case.shape, device=device, requires_grad=True)
    call = forward_backward(layer, x)
    calls = {
        "below": with_limits(call, case.others | {case.limit: NEVER}),
        "above": with_limits(call, case.others | {case.limit: case.above}),
    }
    seconds = paired(calls, rounds=rounds)
    experts = layer.experts.num_experts
    name = f"{case.limit}={getattr(paths, case.limit):,}, {case.shape}, {experts} experts"
    row = bounded(f"below / above {name}", ratio(seconds["below"], seconds["above"]))
    return row | {f"{key}_us": 1e6 * statistics.median(each) for key, each in seconds.items()}


def with_limits(call: Function, limits: dict[str, int]) -> Function:
    """Return the call with other limits while it runs."""

    def limited() -> None:
        before = {name: getattr(paths, name) for name in limits}
        for name, value in limits.items():
            setattr(paths, name, value)
        try:
            call()
        finally:
            for name, value in before.items():
                setattr(paths, name, value)

    return limited
