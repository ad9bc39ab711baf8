"""Look at a network without touching it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode while the block runs, module by module.

    ``network.train(False)`` would move the bias of loss-free balancing, in a layer that does so.
    LSTMs without dropout, to which it is the same, are in training mode: in no other does cuDNN
    give their gradients.
    """
    before = {module: module.training for module in network.modules()}
    for module in before:
        module.training = isinstance(module, nn.RNNBase) and module.dropout == 0
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
