"""The running averages that an optimiser keeps of its parameters' gradients."""

from __future__ import annotations

import torch as th

from sb3_moe.optimizers.own_steps import STEPS


def moments_in(optimizer: th.optim.Optimizer) -> dict[th.Tensor, list[th.Tensor]]:
    """Return the running averages by parameter, each shaped like it."""
    return {
        parameter: [
            value
            for name, value in state.items()
            if name != STEPS
            if isinstance(value, th.Tensor) and value.shape == parameter.shape
        ]
        for parameter, state in optimizer.state.items()
    }
