"""How dense each layer of a sparse network is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Shape = Sequence[int]


def uniform(shapes: Sequence[Shape], sparsity: float) -> list[float]:
    """Make all layers equally dense.

    :param shapes: of each layer's weight
    :param sparsity: share of weights that are zero, in [0, 1)
    :return: share of weights that are alive, by layer
    """
    return [1.0 - sparsity] * len(shapes)


def erk(shapes: Sequence[Shape], sparsity: float) -> list[float]:
    """Make layers with few weights denser (Erdos-Renyi-Kernel; arXiv 1911.11134, section 3).

    A layer's density is proportional to the sum of its axes over their product; where that is more
    than 1 the layer is dense, and the others share what remains.

    :param shapes: of each layer's weight, such as (out, in) or (out, in, height, width)
    :param sparsity: share of all weights that are zero, in [0, 1)
    :return: share of weights that are alive, by layer
    """
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    dense = [False] * len(shapes)
    while True:
        rest = [i for i, full in enumerate(dense) if not full]
        wanted = (1.0 - sparsity) * sum(sizes) - sum(sizes) + sum(sizes[i] for i in rest)
        scale = wanted / (sum(raw[i] * sizes[i] for i in rest) or 1.0)
        full = [i for i in rest if raw[i] * scale > 1.0]
        if not full:
            return [1.0 if dense[i] else raw[i] * scale for i in range(len(shapes))]
        largest = max(raw[i] for i in full)
        for i in full:
            dense[i] = raw[i] == largest


DENSITIES: Mapping[str, Callable[[Sequence[Shape], float], list[float]]] = {
    "erk": erk,
    "uniform": uniform,
}


def alive_of(shape: Shape, density: float) -> int:
    """Return how many weights of a layer are alive, at least 1."""
    return max(1, round(density * math.prod(shape)))
