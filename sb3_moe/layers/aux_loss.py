"""Auxiliary losses of routers, and how they reach the optimizer.

Shapes: B batch, N tokens per sample, E experts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from torch import Tensor

from sb3_moe.layers.routing import Routing


class AuxCoefs(NamedTuple):
    """How much each auxiliary loss counts; 0 leaves it out.

    :param balance: load balance of the Switch Transformer (arXiv 2101.03961, eq. 4-6)
    :param importance: squared coefficient of variation of the experts' summed probabilities
        (arXiv 1701.06538, eq. 6-7)
    :param z: squared log of the router's normalizer (arXiv 2202.08906, eq. 5)
    """

    balance: float = 0.0
    importance: float = 0.0
    z: float = 0.0


def balance_loss(routing: Routing) -> Tensor:
    """Return E times the sum over experts of load times mean probability: 1 when even."""
    probs_E = routing.probs_BNE.mean(dim=(0, 1))
    return len(probs_E) * (routing.load_E.detach() * probs_E).sum()


def importance_loss(routing: Routing) -> Tensor:
    """Return the squared coefficient of variation of the experts' summed probabilities."""
    mass_E = routing.probs_BNE.sum(dim=(0, 1))
    return mass_E.var(unbiased=False) / mass_E.mean().square().clamp_min(1e-12)


def z_loss(routing: Routing) -> Tensor:
    """Return the mean squared log-sum-exp of the router's scores."""
    return routing.scores().flatten(2).logsumexp(-1).square().mean()


LOSSES = {"balance": balance_loss, "importance": importance_loss, "z": z_loss}


def total_loss(routing: Routing, coefs: AuxCoefs) -> Tensor:
    """Return the weighted sum of the losses whose coefficient is not 0."""
    terms = [coef * LOSSES[name](routing) for name, coef in coefs._asdict().items() if coef != 0.0]
    return th.stack(terms).sum()


class AddLoss(th.autograd.Function):
    """Return the input unchanged, and give the loss a gradient of 1 in the backward pass.

    The gradients are those of adding the loss to whatever the algorithm minimizes, so the algorithm
    itself needs no change.
    """

    #: Whether backward passes give losses their gradient; see :func:`without_added_losses`.
    feeding = True

    @staticmethod
    def forward(ctx: Any, y: Tensor, loss: Tensor) -> Tensor:
        """Pass ``y`` through."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(loss)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Pass the output's gradient through, and give the loss 1."""
        (loss,) = ctx.saved_tensors
        return grads[0], th.ones_like(loss) if AddLoss.feeding else None


@contextmanager
def without_added_losses() -> Iterator[None]:
    """Leave the added losses out of all gradients that are computed in the block."""
    before = AddLoss.feeding
    AddLoss.feeding = False
    try:
        yield
    finally:
        AddLoss.feeding = before


def add_loss(y: Tensor, loss: Tensor) -> Tensor:
    """Attach a loss to a tensor that the algorithm's own loss depends on."""
    return AddLoss.apply(y, loss)  # type: ignore[no-untyped-call]  # torch's has no types
