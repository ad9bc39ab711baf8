"""The running averages that an optimiser keeps of its parameters' gradients."""

from __future__ import annotations

import torch as th

from sb3_moe.optimizers.own_steps import STEPS

#: Entries of a parameter's state that count, and are the same for any gradient.
COUNTS = ("step", "mu_product")


def moments_of(optimizer: th.optim.Optimizer, parameter: th.Tensor) -> dict[str, th.Tensor]:
    """Return a parameter's running averages by name, shaped like it; none before its first step."""
    # Asking for the state of a tensor that has none would make it.
    return {
        name: value
        for name, value in optimizer.state.get(parameter, {}).items()
        if name not in (*COUNTS, STEPS)
        if isinstance(value, th.Tensor) and value.shape == parameter.shape
    }


def moments_in(optimizer: th.optim.Optimizer) -> dict[th.Tensor, list[th.Tensor]]:
    """Return the running averages by parameter, each shaped like it."""
    return {each: list(moments_of(optimizer, each).values()) for each in optimizer.state}
