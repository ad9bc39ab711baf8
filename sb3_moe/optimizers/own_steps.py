"""Adam's step with a count of steps for each expert, behind the one that torch took.

Shapes: n experts that step together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch as th

#: The optimisers that correct their moments by how many steps there were.
ADAMS = (th.optim.Adam, th.optim.AdamW)
#: The entry of an optimiser's state that holds each expert's own count.
STEPS = "expert_steps"


def factors_of_own_count(
    group: Mapping[str, Any], state: dict[str, th.Tensor], active_n: th.Tensor
) -> list[th.Tensor]:
    """Count the step of the experts that take it, and return what :func:`redo` needs, (n,) each.

    :param group: the optimiser's settings
    :param state: where the count of all experts is, after torch's step, and those of each are kept
    :param active_n: 1 for experts that take the step, 0 for idle ones
    """
    step, steps_n = state["step"], state.get(STEPS)
    if steps_n is None:  # until now nobody was idle
        steps_n = state[STEPS] = th.zeros_like(active_n) + (step - 1)
    steps_n += active_n
    first_n, second_n = (_correction(beta, steps_n) for beta in group["betas"])
    decay = group["weight_decay"] if group["decoupled_weight_decay"] else 0.0
    return [
        (steps_n != step).to(active_n.dtype),  # where torch's own step won't do
        second_n.rsqrt(),
        # Where an expert is idle nothing is taken off, and nothing may be divided by 0, not even 0.
        (1.0 - active_n) + group["eps"],
        active_n * group["lr"] / first_n,
        1.0 - active_n * (group["lr"] * decay),
    ]


def redo(
    tensors: list[th.Tensor],
    olds: list[th.Tensor],
    states: Sequence[Mapping[str, th.Tensor]],
    factors: Sequence[Sequence[th.Tensor]],
) -> None:
    """Give tensors the step of each expert's own count; idle experts get back what they were.

    :param tensors: after torch's step, which stays where it is the same
    :param olds: before it; their memory is used
    :param states: theirs, with the moments as they are to be
    :param factors: for each tensor, of its experts, spread over it
    """
    differs, roots, epsilons, sizes, kept = map(list[th.Tensor], zip(*factors, strict=True))
    squares = [state.get("max_exp_avg_sq", state["exp_avg_sq"]) for state in states]
    below = list(th._foreach_sqrt(squares))
    th._foreach_mul_(below, roots)
    th._foreach_add_(below, epsilons)
    above = list(th._foreach_mul([state["exp_avg"] for state in states], sizes))
    th._foreach_mul_(olds, kept)
    th._foreach_addcdiv_(olds, above, below, -1.0)
    th._foreach_lerp_(tensors, olds, differs)


def _correction(beta: float, steps_n: th.Tensor) -> th.Tensor:
    """Return 1 - beta^steps, exactly for few steps too; a count of 0 is taken for 1."""
    log = math.log(max(float(beta), 1e-300))
    return -th.expm1(steps_n.clamp(min=1.0) * log)
