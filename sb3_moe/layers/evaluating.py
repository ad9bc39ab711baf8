"""Look at a network without touching it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode while the block runs, module by module.

    ``network.train(False)`` would move the bias of loss-free balancing, in a layer that does so.
    LSTMs stay as they are: without dropout it is the same to them, and cuDNN has gradients of one
    in training mode alone.
    """
    training = [
        module
        for module in network.modules()
        if module.training and not (isinstance(module, nn.RNNBase) and module.dropout == 0)
    ]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
