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
        1.0 / second_n,
        # Where an expert is idle nothing is taken off, and nothing may be divided by 0, not even 0.
        # Before the root: that of 0 takes several times as long as others (on CPU).
        1.0 - active_n,
        th.zeros_like(active_n) + group["eps"],
        active_n * group["lr"] / first_n,
        1.0 - active_n * (group["lr"] * decay),
    ]


def redo(
    tensors: list[th.Tensor],
    olds: list[th.Tensor],
    averages: list[th.Tensor],
    squares: list[th.Tensor],
    factors: Sequence[Sequence[th.Tensor]],
) -> None:
    """Give tensors the step of each expert's own count; idle experts get back what they were.

    The memory of all but the tensors is used up: what is large and new costs more than the rest.

    :param tensors: after torch's step, which stays where it is the same
    :param olds: before it
    :param averages: first moments as they are to be
    :param squares: second moments as they are to be, or the largest so far
    :param factors: for each tensor, of its experts, spread over it
    """
    columns = map(list[th.Tensor], zip(*factors, strict=True))
    differs, corrections, idle, epsilons, sizes, kept = columns
    th._foreach_mul_(squares, corrections)
    th._foreach_add_(squares, idle)
    th._foreach_sqrt_(squares)
    th._foreach_add_(squares, epsilons)
    th._foreach_mul_(averages, sizes)
    th._foreach_mul_(olds, kept)
    th._foreach_addcdiv_(olds, averages, squares, -1.0)
    th._foreach_lerp_(tensors, olds, differs)


def _correction(beta: float, steps_n: th.Tensor) -> th.Tensor:
    """Return 1 - beta^steps, exactly for few steps too; a count of 0 is taken for 1."""
    log = math.log(max(float(beta), 1e-300))
    return -th.expm1(steps_n.clamp(min=1.0) * log)
