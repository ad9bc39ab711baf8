"""Vectors made orthonormal row by row, and their gated sum as one operation.

Shapes: E experts, T rows, O outputs, K = 1 + E.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import torch as th

from sb3_moe.layers.stacked import gated_sum
from sb3_moe.layers.tracing import is_batched

# The authors add it to every norm, which in single precision is the same: an output of 0 stays 0.
TINY = 1e-8


def gram_schmidt(
    y_ETO: th.Tensor,
) -> tuple[list[th.Tensor], list[list[th.Tensor]], list[th.Tensor]]:
    """Take from each vector of a row what those before it hold, and give it length 1.

    :return: the units (T, O); for each vector its share of each earlier unit (T, 1); and the
        squares of the lengths of what was left (T, 1), at least TINY squared
    """
    units: list[th.Tensor] = []
    shares: list[list[th.Tensor]] = []
    squares: list[th.Tensor] = []
    # Apart, since autograd makes a zero tensor of all experts for each slice of theirs.
    for left_TO in y_ETO.unbind():
        held = []
        for unit_TO in units:
            share_T1 = (left_TO * unit_TO).sum(-1, keepdim=True)
            left_TO = th.addcmul(left_TO, share_T1, unit_TO, value=-1)
            held.append(share_T1)
        # Not `norm`, whose backward pass looks for zeros in every row.
        squares_T1 = (left_TO * left_TO).sum(-1, keepdim=True).clamp_min(TINY**2)
        units.append(left_TO * squares_T1.rsqrt())
        shares.append(held)
        squares.append(squares_T1)
    return units, shares, squares


class OrthonormalSum(th.autograd.Function):
    """The gated sum of orthonormal outputs, with a backward pass written by hand.

    With the units Q as rows, the outputs are Y = LQ, where L holds shares and lengths. The gradient
    D of the units is one row d times the gates, so that of the outputs, L^-T (D - NQ), is for each
    expert a sum of d and the units. N is the lower half of D Q^T and its mirror image.
    """

    @staticmethod
    def forward(ctx: Any, y_ETO: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Return the sum: (T, O)."""
        units, shares, squares = gram_schmidt(y_ETO)
        ctx.save_for_backward(y_ETO, gates_TE, *units, *squares, *chain.from_iterable(shares))
        y_TO = units[0] * gates_TE[:, :1]
        for k, unit_TO in enumerate(units[1:], start=1):
            y_TO.addcmul_(unit_TO, gates_TE[:, k : k + 1])
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: th.Tensor) -> tuple[th.Tensor | None, ...]:
        """Return the gradients of what needs one, which can be differentiated again."""
        (d_TO,) = grads
        y_ETO, gates_TE, *kept = ctx.saved_tensors
        if th.is_grad_enabled() or is_batched(d_TO):
            # What was kept does not know what it was computed from.
            return _gradients_again(ctx.needs_input_grad, y_ETO, gates_TE, d_TO)
        num_experts = len(y_ETO)
        units, squares = kept[:num_experts], kept[num_experts : 2 * num_experts]
        products_ET = th.stack([(d_TO * unit_TO).sum(-1) for unit_TO in units])
        d_y_ETO = None
        if ctx.needs_input_grad[0]:
            shares = iter(kept[2 * num_experts :])
            weights = _weights(gates_TE, products_ET, shares, squares)
            d_y_ETO = th.empty_like(y_ETO)
            for d_y_TO, weights_KT in zip(d_y_ETO.unbind(), weights, strict=True):
                first_T1, *others = weights_KT.unsqueeze(-1).unbind()
                th.mul(d_TO, first_T1, out=d_y_TO)
                for unit_TO, weight_T1 in zip(units, others, strict=True):
                    d_y_TO.addcmul_(unit_TO, weight_T1)
        return d_y_ETO, products_ET.t() if ctx.needs_input_grad[1] else None


def _weights(
    gates_TE: th.Tensor,
    products_ET: th.Tensor,
    shares: Iterator[th.Tensor],
    squares: Sequence[th.Tensor],
) -> list[th.Tensor]:
    """Return, for each expert, how much of d and of each unit its gradient is: (1 + E, T)."""
    gates_ET = gates_TE.t().contiguous()
    mixed_EET = gates_ET.unsqueeze(1) * products_ET.neg()
    lower = [[share_T1.view(-1) for share_T1 in islice(shares, k)] for k in range(len(squares))]
    found: dict[int, th.Tensor] = {}
    for k in reversed(range(len(squares))):
        # A length that was too small to divide by was taken for a constant.
        mixed_EET[k, k].mul_(squares[k].view(-1) > TINY**2)
        weights_KT = th.cat([gates_ET[k : k + 1], mixed_EET[k, : k + 1], mixed_EET[k + 1 :, k]])
        for later, theirs_KT in found.items():
            weights_KT.addcmul_(lower[later][k], theirs_KT, value=-1)
        found[k] = weights_KT.mul_(squares[k].view(-1).rsqrt())
    return [found[k] for k in range(len(squares))]


def _gradients_again(
    needed: Sequence[bool], y_ETO: th.Tensor, gates_TE: th.Tensor, d_TO: th.Tensor
) -> tuple[th.Tensor | None, ...]:
    """Return the gradients by torch's own operations, which it can differentiate."""
    again = th.is_grad_enabled()
    with th.enable_grad():
        # Of a view: hooks on what was saved, and paths between the two, are the outer pass's.
        inputs = y_ETO, gates_TE = y_ETO.view_as(y_ETO), gates_TE.view_as(gates_TE)
        y_TO = gated_sum(th.stack(gram_schmidt(y_ETO)[0]), gates_TE)
    wanted = [each for each, is_needed in zip(inputs, needed, strict=True) if is_needed]
    gradients = iter(th.autograd.grad(y_TO, wanted, d_TO, create_graph=again))
    return tuple(next(gradients) if is_needed else None for is_needed in needed)
