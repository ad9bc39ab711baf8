"""How an optimiser's running averages follow a gradient that is so many times larger."""

from __future__ import annotations

import torch as th

from sb3_moe.networks.masks import COUNTS

# The power of the gradient that each grows with: those of other names can't be carried over.
_POWERS = {
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "exp_inf": 1,
    "square_avg": 2,
    "grad_avg": 1,
    "sum": 2,
}
# Of SGD it is made of gradients, of RMSprop of steps, which don't grow with them.
_MOMENTUM = "momentum_buffer"


def power_of(optimizer: th.optim.Optimizer, name: str) -> int:
    """Return the power of the gradient that an average grows with."""
    return _POWERS.get(name, int(isinstance(optimizer, th.optim.SGD)))


def can_carry(optimizer: th.optim.Optimizer) -> bool:
    """Say whether an optimiser's running averages are known to follow the gradient."""
    names = {name for state in optimizer.state.values() for name in state}
    return names <= {*_POWERS, *COUNTS, _MOMENTUM}


def filled(average: th.Tensor, power: int, *, from_zero: bool = False) -> th.Tensor:
    """Give what is new in an average, NaN so far, something to start from.

    A square that starts at 0 behind many steps would make the next ones too large: it starts from
    the mean of the others, if there are any.

    :param average: with NaN for what is new
    :param power: see :func:`power_of`
    :param from_zero: whether what is new counts its own steps
    """
    mean = average.nanmean().item() if power == 2 and not from_zero else 0.0
    return average.nan_to_num(nan=mean if mean == mean else 0.0)
