"""A device where there is none: who waits for its values is noted, and a mix with the host fails.

torch's fake tensors have shapes, types and devices but no values. An operation on tensors of two
devices raises. What would read a value is noted with the place in the code that asked, and is
answered with a made-up one, so that whole training runs go on.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch as th
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "gpux"
PACKAGES = ("sb3_moe", "stable_baselines3", "sb3_contrib", "tests")
ATEN = th.ops.aten
#: torch takes a device of its own only before the first backward pass of a process.
ALONE = pytest.mark.skipif(
    "SB3_MOE_FAKE_DEVICE" not in os.environ,
    reason="needs a process of its own, which the first test of the file starts",
)


class Place(NamedTuple):
    """Where a device was asked for something: the innermost function that is not torch's.

    :param file: from its package on
    :param function: in it
    """

    file: str
    function: str


class _Module(_DummyBackendModule):
    """What torch looks for as ``torch.gpux``; nothing else in the process may choose it."""

    @staticmethod
    def is_available() -> bool:
        return False

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass


@cache
def _register() -> None:
    """Give the device its name, which torch takes once per process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())


class Watch(TorchDispatchMode):
    """Note what is read from the device and what is copied to it, by place."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[Place] = Counter()
        self.uploads: Counter[Place] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is ATEN._local_scalar_dense.default:
            return self._value(args[0])
        if func is ATEN.nonzero.default:
            return self._indices(args[0])
        if func is ATEN.index.Tensor:
            args = (args[0], [each for index in args[1] for each in self._positions(index)])
        elif func is ATEN.index_put_.default and not _fills(args[2]):
            args = (
                args[0],
                [each for index in args[1] for each in self._positions(index)],
                *args[2:],
            )
        if func is ATEN._grouped_mm.default:
            return _grouped(func, *args, **kwargs)
        if func is ATEN._to_copy.default:
            self._note(kwargs.get("device") or args[0].device, args[0].device)
        elif func is ATEN.copy_.default:
            self._note(args[0].device, args[1].device)
        out = func(*args, **kwargs)
        if func in (ATEN.all.default, ATEN._is_all_true.default):
            out.holds = True
        if func is ATEN.lift_fresh.default and isinstance(out, FakeTensor):
            out.constant = None  # torch would go on computing with the value of a small tensor
        return out

    def _note(self, to: th.device, source: th.device) -> None:
        if to.type != source.type and NAME in (to.type, source.type):
            (self.uploads if to.type == NAME else self.reads)[_place()] += 1

    def _value(self, tensor: th.Tensor) -> Any:
        if tensor.device.type == NAME:
            self.reads[_place()] += 1
        if tensor.dtype is th.bool:
            return hasattr(tensor, "holds")  # all arguments are valid, and none is NaN
        return 1.0 if tensor.is_floating_point() else 1

    def _positions(self, index: th.Tensor | None) -> Sequence[th.Tensor | None]:
        """Turn a mask into positions, as torch does."""
        is_mask = index is not None and index.dtype in (th.bool, th.uint8)
        return self._indices(index).unbind(1) if is_mask else (index,)

    def _indices(self, tensor: th.Tensor) -> th.Tensor:
        """Take each element for one that is not zero; how many there are is a value too."""
        if tensor.device.type == NAME:
            self.reads[_place()] += 1
        return th.zeros(tensor.numel(), tensor.dim(), dtype=th.long, device=tensor.device)


def _fills(value: th.Tensor) -> bool:
    """Say whether one number goes wherever a mask says: torch does that without positions."""
    return value.dim() == 0


def _place() -> Place:
    """Find the innermost caller that is not torch's; in a backward pass there may be none."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        for package in PACKAGES:
            if package in parts and parts[-1] != Path(__file__).name:
                start = len(parts) - 1 - parts[::-1].index(package)
                return Place("/".join(parts[start:]), frame.f_code.co_name)
        frame = frame.f_back
    return Place("backward", "")


# What torch's fake tensors can't do; each does the same, as far as devices go.


def _grouped(func: Any, x: th.Tensor, weight: th.Tensor, *args: Any, **kwargs: Any) -> th.Tensor:
    """Stand for the grouped product of other types than the one that its shapes are known for."""
    out: th.Tensor = func(x.bfloat16(), weight.bfloat16(), *args, **kwargs)
    return out.to(x.dtype)


def _to_numpy(tensor: th.Tensor, *, force: bool = False) -> np.ndarray[Any, Any]:
    """Stand for ``Tensor.numpy``, with ones, or zeros for whole numbers."""
    if tensor.device.type != "cpu" and not force:
        raise TypeError(f"can't convert a tensor on {tensor.device} to numpy: copy it first")
    make = np.ones if tensor.is_floating_point() else np.zeros
    return make(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _on_host_first(make: Callable[..., th.Tensor]) -> Callable[..., th.Tensor]:
    """Let a function that makes a tensor of data do in two steps what it does in one."""

    def in_two_steps(data: Any, *, device: Any = None, **kwargs: Any) -> th.Tensor:
        made = make(data, **kwargs)
        return made if device is None else made.to(device)

    return in_two_steps


def _moved(module: nn.Module, target: Any) -> nn.Module:
    """Stand for ``Module.to``: give each tensor its new device in place, for all who hold it."""
    target = th.empty(0, device=target).device  # with its index
    for tensor in (*module.parameters(), *module.buffers()):
        assert isinstance(tensor, FakeTensor)
        tensor.fake_device = target
    return module


def _deep_copy(tensor: th.Tensor, memo: dict[int, Any]) -> th.Tensor:
    if id(tensor) not in memo:
        copy = tensor.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
    copied: th.Tensor = memo[id(tensor)]
    return copied


@th.no_grad()
def _set_data(tensor: th.Tensor, value: th.Tensor) -> None:
    """Stand for ``tensor.data = value``, which refuses a tensor that was moved in place."""
    if tensor.shape == value.shape:
        tensor.copy_(value)
    else:  # while it is built
        th.Tensor.data.__set__(tensor, value)  # type: ignore[attr-defined]


_DATA = property(th.Tensor.data.__get__, _set_data)  # type: ignore[attr-defined]


@contextmanager
def fake_device() -> Iterator[Watch]:
    """Let ``device="gpux"`` work while the context lasts, and note what is read from it.

    All that is used inside must be made inside.
    """
    _register()
    with (
        mock.patch.object(nn.Module, "to", _moved),
        mock.patch.object(th.Tensor, "numpy", _to_numpy),
        mock.patch.object(th, "tensor", _on_host_first(th.tensor)),
        mock.patch.object(th, "as_tensor", _on_host_first(th.as_tensor)),
        mock.patch.object(FakeTensor, "__deepcopy__", _deep_copy),
        mock.patch.object(FakeTensor, "data", _DATA, create=True),
        FakeTensorMode(allow_non_fake_inputs=True),
        Watch() as watch,
    ):
        yield watch
