"""Whether a forward pass is computed, recorded for any batch size, transformed or watched."""

from __future__ import annotations

import torch as th
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

# Where a module keeps what others have hung on it.
OVERRIDES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "forward",
)


def is_recorded() -> bool:
    """Say whether ``torch.jit.trace``, ``torch.export``, ONNX or ``torch.compile`` records a pass.

    What is chosen by the batch size is then chosen once and for all: only ways that are right for
    every size may be taken.
    """
    tracing: bool = th.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch's
    return tracing or th.compiler.is_compiling()


def is_transformed() -> bool:
    """Say whether ``torch.func``'s transforms look into a pass: its values can't be read then."""
    return th._C._are_functorch_transforms_active()


def is_batched(gradient: th.Tensor) -> bool:
    """Say whether a gradient stands for many, as with ``is_grads_batched`` and ``vectorize``."""
    return is_transformed() or th._C._functorch.is_legacy_batchedtensor(gradient)


def is_eager() -> bool:
    """Say whether a pass is plain: a backward pass written by hand then does all that is asked.

    Not so where it is recorded, under ``torch.func``'s transforms, forward-mode derivatives and
    autocast, and with hooks on all modules: those look into every operation.
    """
    return not (
        # First, since the compiler knows no more than this one.
        th.compiler.is_compiling()
        or th._C._is_tracing()
        or th._C._are_functorch_transforms_active()
        or th._C._is_any_autocast_enabled()
        or forward_ad._current_level >= 0
        or _has_any_global_hook()
    )


def is_watched(module: nn.Module) -> bool:
    """Say whether anyone has put a hook, or another way to run, on a module: it must be called."""
    return any(map(module.__dict__.get, OVERRIDES))
