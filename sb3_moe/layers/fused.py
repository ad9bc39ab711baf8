"""Experts of two layers on the same rows, as one operation with a backward pass written by hand.

What :class:`~sb3_moe.layers.StackedNetwork` computes layer by layer, by the same kernels in the
same order, with less between them: for few rows that is most of the time.

Shapes: B rows, with any axes before the last; T rows, flat; E experts, I inputs, R features that
the router sees, H hidden, K = E*H, O outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch as th
from torch.nn import functional as F

from sb3_moe.layers.activations import Pointwise
from sb3_moe.layers.routing import softmax_over_experts, softmax_over_experts_backward


class TwoLayers(NamedTuple):
    """Two linear layers of every expert, and the activation between.

    :param w1_EHI: weight of the first layer
    :param b1_EH: its bias
    :param w2_EHO: weight of the last layer
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
    y_BO: th.Tensor = _run(x_BI, None, None, gates_BE, *experts)
    return y_BO


def soft_mixture(
    x_BI: th.Tensor, seen_BR: th.Tensor, router_RE: th.Tensor, experts: TwoLayers
) -> tuple[th.Tensor, th.Tensor]:
    """Do the same with the softmax of a linear router's scores for gates.

    :return: output (B, O), scores (B, E)
    """
    seen = None if seen_BR is x_BI else seen_BR
    found: tuple[th.Tensor, th.Tensor] = _run(x_BI, seen, router_RE, None, *experts)
    return found


class Mixture(th.autograd.Function):
    """The gated sum of all experts' outputs, with gates that are given or a router's.

    Its inputs are the rows; what the router sees, None for the rows themselves, and its weights;
    or, without a router, gates; and the experts. Its code counts every call: for few rows, a view
    costs as much as what is done with it.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> th.Tensor | tuple[th.Tensor, ...]:
        """Compute the output and, of a router, the scores."""
        ctx.set_materialize_grads(False)
        ctx.activation = inputs[8]
        found, kept = _forward(*inputs)
        ctx.save_for_backward(*inputs[:8], *kept)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: th.Tensor | None) -> tuple[th.Tensor | None, ...]:
        """Return the gradients of what needs one, which can be differentiated again."""
        saved, needs, d_y_BO = ctx.saved_tensors, ctx.needs_input_grad, grads[0]
        x_BI, seen_BR, router_RE, gates_BE, w1_EHI, b1_EH, w2_EHO, b2_EO = saved[:8]
        kept = saved[8:]
        if th.is_grad_enabled():
            # What was kept does not know what it was computed from.
            _, kept = _inside(*(*saved[:8], ctx.activation))
        x_TI, w1_KI, w2_KO, gates_TE, gates_TE1, hidden_TEH, gated_TK = kept
        if d_y_BO is None:
            d_y_BO = w2_KO.new_zeros(*x_BI.shape[:-1], w2_KO.shape[1])
        # Not `flatten`, here and below, which many gradients at once have no rule for.
        d_y_TO = d_y_BO.reshape(-1, d_y_BO.shape[-1])
        d_gated_TEH = F.linear(d_y_TO, w2_KO).view_as(hidden_TEH)
        d_out_TEH = d_gated_TEH * gates_TE1
        d_hidden_TK = ctx.activation.backward(d_out_TEH, hidden_TEH).reshape(gated_TK.shape)
        d_x_TI = th.mm(d_hidden_TK, w1_KI) if needs[0] else None
        d_gates_TE = d_seen_TR = d_router_RE = None
        if needs[2] or needs[3] or needs[1] or (needs[0] and router_RE is not None):
            # As torch does for a matrix that lies transposed in memory, to the last bit.
            by_column = gates_TE.stride(0) == 1
            d_bias_TE = F.linear(b2_EO, d_y_TO).t() if by_column else F.linear(d_y_TO, b2_EO)
            d_gates_TE = d_bias_TE + (d_gated_TEH * hidden_TEH).sum(2)
        if router_RE is not None and d_gates_TE is not None:
            d_logits_TE = softmax_over_experts_backward(d_gates_TE, gates_TE)
            if grads[1] is not None:
                d_logits_TE = d_logits_TE + grads[1].reshape(d_logits_TE.shape)
            if seen_BR is None:
                if d_x_TI is not None:
                    d_x_TI = d_x_TI + F.linear(d_logits_TE, router_RE)
            elif needs[1]:
                d_seen_TR = F.linear(d_logits_TE, router_RE)
            seen_TR = x_TI if seen_BR is None else seen_BR.flatten(0, -2)
            d_router_RE = th.mm(seen_TR.t(), d_logits_TE) if needs[2] else None
        return (
            None if d_x_TI is None else d_x_TI.view_as(x_BI),
            None if seen_BR is None or d_seen_TR is None else d_seen_TR.view_as(seen_BR),
            d_router_RE,
            None if gates_BE is None or d_gates_TE is None else d_gates_TE.view_as(gates_BE),
            th.mm(d_hidden_TK.t(), x_TI).view_as(w1_EHI) if needs[4] else None,
            d_hidden_TK.sum(0).view_as(b1_EH) if needs[5] else None,
            th.mm(gated_TK.t(), d_y_TO).view_as(w2_EHO) if needs[6] else None,
            th.mm(gates_TE.t(), d_y_TO) if needs[7] else None,
            None,
        )


def _forward(
    *inputs: Any,
) -> tuple[th.Tensor | tuple[th.Tensor, ...], tuple[th.Tensor, ...]]:
    """Return what :class:`Mixture` does, and what its backward pass needs."""
    logits_TE, kept = _inside(*inputs)
    _, _, w2_KO, gates_TE, _, _, gated_TK = kept
    y_TO = th.addmm(th.mm(gates_TE, inputs[7]), gated_TK, w2_KO)
    rows = inputs[0].shape[:-1]
    y_BO = y_TO.view(*rows, y_TO.shape[1])
    if logits_TE is None:
        return y_BO, kept
    return (y_BO, logits_TE.view(*rows, logits_TE.shape[1])), kept


def _inside(
    x_BI: th.Tensor,
    seen_BR: th.Tensor | None,
    router_RE: th.Tensor | None,
    gates_BE: th.Tensor | None,
    w1_EHI: th.Tensor,
    b1_EH: th.Tensor,
    w2_EHO: th.Tensor,
    b2_EO: th.Tensor,
    activation: Pointwise,
) -> tuple[th.Tensor | None, tuple[th.Tensor, ...]]:
    """Return the scores, if there is a router, and what lies between the inputs and the output.

    :return: scores; rows and weights as matrices, gates (T, E) and (T, E, 1), hidden values
        (T, E, H), and those times the gates (T, K)
    """
    x_TI, logits_TE = x_BI.flatten(0, -2), None
    if router_RE is None:
        assert gates_BE is not None, "there are gates or a router"
        gates_TE = gates_BE.flatten(0, -2)
    else:
        logits_TE = th.mm(x_TI if seen_BR is None else seen_BR.flatten(0, -2), router_RE)
        gates_TE = softmax_over_experts(logits_TE)
    w1_KI = w1_EHI.flatten(0, 1)
    hidden_TK = activation.in_place(F.linear(x_TI, w1_KI, b1_EH.flatten()))
    hidden_TEH = hidden_TK.view(len(x_TI), *b1_EH.shape)
    gates_TE1 = gates_TE.unsqueeze(2)
    gated_TK = (hidden_TEH * gates_TE1).flatten(1)
    w2_KO = w2_EHO.flatten(0, 1)
    return logits_TE, (x_TI, w1_KI, w2_KO, gates_TE, gates_TE1, hidden_TEH, gated_TK)


# Without what torch's `apply` does in Python for `torch.func`, whose transforms come here never.
_apply: Any = super(th.autograd.Function, Mixture).apply


def _run(*inputs: Any) -> Any:
    """Compute the mixture, and let autograd know only where it listens."""
    return _apply(*inputs) if th.is_grad_enabled() else _forward(*inputs)[0]
