"""Which weights of a layer are alive: drawn, and changed while it learns.

Shapes: W weights of one layer.
"""

from __future__ import annotations

import math

import numpy as np
import torch as th


def generator_of(*numbers: int) -> th.Generator:
    """Return a generator that the numbers alone decide, so that none has to be saved."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return th.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def drawn(size: int, alive: int, generator: th.Generator) -> th.Tensor:
    """Return a mask (W,) of which so many are True, at random.

    :param size: W
    :param alive: at most W
    :param generator: on the CPU
    """
    mask_W = th.zeros(size, dtype=th.bool)
    mask_W[th.randperm(size, generator=generator)[:alive]] = True
    return mask_W


def regrown(weight_W: th.Tensor, mask_W: th.Tensor, number: int, scores_W: th.Tensor) -> th.Tensor:
    """Return the mask without the smallest weights, and with as many others in their place.

    A weight that is dropped may grow again, as in the authors' code of RigL (arXiv 1911.11134).

    :param weight_W: the layer's weights
    :param mask_W: what is alive now
    :param number: how many change, at most as many as are alive
    :param scores_W: the largest of what isn't kept are grown
    """
    kept = int(mask_W.sum()) - number
    sizes_W = weight_W.abs().masked_fill(~mask_W, -1.0)
    new_W = th.zeros_like(mask_W)
    new_W[sizes_W.topk(kept).indices] = True
    lowest = scores_W.masked_fill(new_W, -math.inf)
    new_W[lowest.topk(number).indices] = True
    return new_W


def annealed(fraction: float, progress: float, end: float) -> float:
    """Return the share of connections that change, which falls to 0 along half a cosine.

    :param fraction: at the beginning
    :param progress: of training, from 0 to 1
    :param end: the progress at which it is 0
    """
    if progress >= end:
        return 0.0
    return fraction * (1.0 + math.cos(math.pi * max(progress, 0.0) / end)) / 2.0
