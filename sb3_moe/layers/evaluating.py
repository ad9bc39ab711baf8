"""Run a network without changing it, and record what its modules compute."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode while the block runs, then restore each module's mode.

    A policy's ``set_training_mode(False)`` won't do: it may move the bias of loss-free balancing.
    LSTMs without dropout compute the same in both modes. They are put into training mode, since
    cuDNN computes their gradients in no other.
    """
    before = {module: module.training for module in network.modules()}
    for module in before:
        module.training = isinstance(module, nn.RNNBase) and module.dropout == 0
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextmanager
def having(objects: Iterable[Any], attribute: str, value: Any) -> Iterator[None]:
    """Give an attribute of several objects another value while the block runs."""
    before = [(each, getattr(each, attribute)) for each in objects]
    for each, _ in before:
        setattr(each, attribute, value)
    try:
        yield
    finally:
        for each, its_own in before:
            setattr(each, attribute, its_own)


class Call(NamedTuple):
    """What a module was given in one call, and what it returned."""

    args: tuple[Any, ...]
    output: Any


@contextmanager
def recording(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Keep the calls of each module while the block runs.

    :param modules: name to module
    """
    calls: dict[str, list[Call]] = {name: [] for name in modules}

    def hook(name: str) -> Any:
        return lambda module, args, output: calls[name].append(Call(args, output))

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
