"""Adam's step with a count of steps for each expert, behind the one that torch took.

Shapes: n experts, N weights of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch as th

#: The optimisers that correct their moments by how many steps there were.
ADAMS = (th.optim.Adam, th.optim.AdamW)
#: The entry of an optimiser's state that holds each expert's own count.
STEPS = "expert_steps"


def step_of_own_count(
    group: Mapping[str, Any],
    state: dict[str, th.Tensor],
    active_n: th.Tensor,
    old_nN: th.Tensor,
    new_nN: th.Tensor,
    moments: Mapping[str, th.Tensor],
) -> th.Tensor:
    """Return the weights after the step of each expert's own count.

    :param group: the optimiser's settings
    :param state: where the count of all experts is, after torch's step, and those of each are kept
    :param active_n: 1 for experts that take the step, 0 for idle ones
    :param old_nN: the weights before it; their memory is used
    :param new_nN: the weights after torch's step, which stay where it is the same
    :param moments: as they are to be after the step
    """
    step, steps_n = state["step"], state.get(STEPS)
    if steps_n is None:  # until now nobody was idle
        steps_n = state[STEPS] = th.zeros_like(active_n) + (step - 1)
    steps_n += active_n
    differs_n1 = (steps_n != step).to(active_n.dtype).unsqueeze(1)
    first_n1, second_n1 = (_correction(beta, steps_n).unsqueeze(1) for beta in group["betas"])
    active_n1 = active_n.unsqueeze(1)
    squares_nN = moments.get("max_exp_avg_sq", moments["exp_avg_sq"])
    # Where an expert is idle nothing is taken off, and nothing may be divided by 0, not even 0.
    below_nN = squares_nN.sqrt().mul_(second_n1.rsqrt()).add_(group["eps"] + (1.0 - active_n1))
    if group["weight_decay"] and group["decoupled_weight_decay"]:
        old_nN.mul_(1.0 - active_n1 * (group["lr"] * group["weight_decay"]))
    above_nN = moments["exp_avg"] * (active_n1 * group["lr"] / first_n1)
    return new_nN.lerp_(old_nN.addcdiv_(above_nN, below_nN, value=-1), differs_n1)


def _correction(beta: float, steps_n: th.Tensor) -> th.Tensor:
    """Return 1 - beta^steps, exactly for few steps too; a count of 0 is taken for 1."""
    log = math.log(max(float(beta), 1e-300))
    return -th.expm1(steps_n.clamp(min=1.0) * log)
