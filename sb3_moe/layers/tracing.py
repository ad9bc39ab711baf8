"""Whether a forward pass is being recorded, for any batch size, rather than computed."""

from __future__ import annotations

import torch as th


def is_recorded() -> bool:
    """Say whether ``torch.jit.trace``, ``torch.export``, ONNX or ``torch.compile`` records a pass.

    What is chosen by the batch size is then chosen once and for all: only ways that are right for
    every size may be taken.
    """
    tracing: bool = th.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch's
    return tracing or th.compiler.is_compiling()
