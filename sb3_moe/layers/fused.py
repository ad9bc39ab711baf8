"""Experts of two layers on the same rows, as one operation with a backward pass written by hand.

What :class:`~sb3_moe.layers.StackedNetwork` computes layer by layer, by the same kernels in the
same order, with less between them: for few rows that is most of the time.

Shapes: B rows, with any axes before the last; T rows, flat; E experts, I inputs, R features that
the router sees, H hidden, K = E*H, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch.nn import functional as F

from sb3_moe.layers.activations import Pointwise
from sb3_moe.layers.routing import softmax_over_experts, softmax_over_experts_backward


class TwoLayers(NamedTuple):
    """The experts' weights.

    :param w1_EHI: of the first layer
    :param b1_EH: its bias
    :param w2_EHO: of the last layer
    :param b2_EO: its bias
    :param activation: between the two
    """

    w1_EHI: th.Tensor
    b1_EH: th.Tensor
    w2_EHO: th.Tensor
    b2_EO: th.Tensor
    activation: Pointwise


def mixture(x_BI: th.Tensor, gates_BE: th.Tensor, experts: TwoLayers) -> th.Tensor:
    """Run every expert on every row and sum with the gates: (B, I) to (B, O)."""
    y_BO: th.Tensor = Mixture.apply(x_BI, None, None, gates_BE, *experts)
    return y_BO


def soft_mixture(
    x_BI: th.Tensor, seen_BR: th.Tensor, weight_RE: th.Tensor, experts: TwoLayers
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Do the same with the softmax of a linear router's scores for gates.

    :return: output (B, O), gates (B, E), scores (B, E)
    """
    seen = None if seen_BR is x_BI else seen_BR
    found: tuple[th.Tensor, th.Tensor, th.Tensor] = Mixture.apply(
        x_BI, seen, weight_RE, None, *experts
    )
    return found


class Inside(NamedTuple):
    """What lies between the inputs and the output.

    :param gates_TE: given, or the softmax of the scores
    :param hidden_TEH: after the activation
    :param gated_TEH: times the gates
    :param logits_TE: the router's scores; None without a router
    """

    gates_TE: th.Tensor
    hidden_TEH: th.Tensor
    gated_TEH: th.Tensor
    logits_TE: th.Tensor | None


def _inside(
    x_BI: th.Tensor,
    seen_BR: th.Tensor | None,
    weight_RE: th.Tensor | None,
    gates_BE: th.Tensor | None,
    experts: TwoLayers,
) -> Inside:
    x_TI, logits_TE = x_BI.flatten(0, -2), None
    if weight_RE is not None:
        logits_TE = th.mm(x_TI if seen_BR is None else seen_BR.flatten(0, -2), weight_RE)
        gates_TE = softmax_over_experts(logits_TE)
    else:
        assert gates_BE is not None
        gates_TE = gates_BE.flatten(0, -2)
    hidden_TK = F.linear(x_TI, experts.w1_EHI.flatten(0, 1), experts.b1_EH.flatten())
    hidden_TEH = experts.activation.in_place(hidden_TK).view(-1, *experts.w1_EHI.shape[:2])
    return Inside(gates_TE, hidden_TEH, hidden_TEH * gates_TE.unsqueeze(2), logits_TE)


class Mixture(th.autograd.Function):
    """The gated sum of all experts' outputs, with gates that are given or a router's."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> th.Tensor | tuple[th.Tensor, ...]:
        """Compute the output and, of a router, the gates and scores."""
        *routed, experts = *args[:4], TwoLayers(*args[4:])
        inside = _inside(*routed, experts)
        y_TO = th.addmm(
            th.mm(inside.gates_TE, experts.b2_EO),
            inside.gated_TEH.flatten(1),
            experts.w2_EHO.flatten(0, 1),
        )
        ctx.save_for_backward(*args[:-1], *inside[:3])
        ctx.activation = experts.activation
        ctx.set_materialize_grads(False)
        rows = args[0].shape[:-1]
        if inside.logits_TE is None:
            return y_TO.unflatten(0, rows)
        return tuple(each.unflatten(0, rows) for each in (y_TO, inside.gates_TE, inside.logits_TE))

    @staticmethod
    def backward(ctx: Any, *grads: th.Tensor | None) -> tuple[th.Tensor | None, ...]:
        """Return the gradients of what needs one, which can be differentiated again."""
        *routed, w1, b1, w2, b2, gates_TE, hidden_TEH, gated_TEH = ctx.saved_tensors
        experts = TwoLayers(w1, b1, w2, b2, ctx.activation)
        inside = Inside(gates_TE, hidden_TEH, gated_TEH, None)
        if th.is_grad_enabled():
            # What was kept does not know what it was computed from.
            inside = _inside(*routed, experts)
        needs, shape = ctx.needs_input_grad, (*routed[0].shape[:-1], w2.shape[2])
        d_y_TO = (w2.new_zeros(shape) if grads[0] is None else grads[0]).flatten(0, -2)
        d_gated_TEH = th.mm(d_y_TO, w2.flatten(0, 1).t()).view_as(inside.hidden_TEH)
        d_outer_TEH = d_gated_TEH * inside.gates_TE.unsqueeze(2)
        d_hidden_TK = ctx.activation.backward(d_outer_TEH, inside.hidden_TEH).flatten(1)
        d_gates_TE = None
        if any(needs[1:4]) or (needs[0] and routed[2] is not None):
            from_hidden_TE = (d_gated_TEH * inside.hidden_TEH).sum(2)
            d_gates_TE = th.addmm(from_hidden_TE, d_y_TO, b2.t())
        d_x_TI = th.mm(d_hidden_TK, w1.flatten(0, 1)) if needs[0] else None
        return (
            *_routed_backward(routed, inside.gates_TE, (d_x_TI, d_gates_TE, *grads[1:]), needs),
            th.mm(d_hidden_TK.t(), routed[0].flatten(0, -2)).view_as(w1) if needs[4] else None,
            d_hidden_TK.sum(0).view_as(b1) if needs[5] else None,
            th.mm(inside.gated_TEH.flatten(1).t(), d_y_TO).view_as(w2) if needs[6] else None,
            th.mm(inside.gates_TE.t(), d_y_TO) if needs[7] else None,
            None,
        )


def _routed_backward(
    routed: Sequence[th.Tensor | None],
    gates_TE: th.Tensor,
    grads: Sequence[th.Tensor | None],
    needs: Sequence[bool],
) -> tuple[th.Tensor | None, ...]:
    """Return the gradients of the rows, what the router sees, its weights, and given gates.

    :param routed: these four, where there are any
    :param grads: of the rows through the experts, of the gates in the sum, and of what came out
        beside it: gates and scores
    :param needs: which of the four need one
    """
    x_BI, seen_BR, weight_RE, gates_BE = routed
    d_x_TI, d_gates_TE, *beside = grads
    if d_gates_TE is None or weight_RE is None:
        return _as(d_x_TI, x_BI), None, None, _as(d_gates_TE, gates_BE)
    if beside[0] is not None:
        d_gates_TE = d_gates_TE + beside[0].flatten(0, -2)
    d_logits_TE = softmax_over_experts_backward(d_gates_TE, gates_TE)
    if beside[1] is not None:
        d_logits_TE = d_logits_TE + beside[1].flatten(0, -2)
    d_seen_TR = None
    if seen_BR is None and d_x_TI is not None:
        d_x_TI = th.addmm(d_x_TI, d_logits_TE, weight_RE.t())
    elif needs[1]:
        d_seen_TR = th.mm(d_logits_TE, weight_RE.t())
    rows_TR = (x_BI if seen_BR is None else seen_BR).flatten(0, -2)
    d_weight_RE = th.mm(rows_TR.t(), d_logits_TE) if needs[2] else None
    return _as(d_x_TI, x_BI), _as(d_seen_TR, seen_BR), d_weight_RE, None


def _as(grad: th.Tensor | None, x: th.Tensor | None) -> th.Tensor | None:
    return None if grad is None or x is None else grad.view(x.shape)
