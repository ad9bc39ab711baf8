"""Sizes of weights and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch as th

NOT_KEPT: Mapping[th.Tensor, th.Tensor | None] = MappingProxyType({})


def weight_norm(parameters: Iterable[th.Tensor]) -> float:
    """Return the L2 norm of all weights together."""
    return _norm([parameter.detach() for parameter in parameters])


def weight_change(parameters: Iterable[th.Tensor], before: Iterable[th.Tensor]) -> float:
    """Return the L2 norm of how far the weights moved.

    :param parameters: now
    :param before: earlier copies, in the same order
    :raises ValueError: if the numbers of tensors differ
    """
    pairs = zip(parameters, before, strict=True)
    return _norm([parameter.detach() - old for parameter, old in pairs])


def gradient_norm(
    parameters: Iterable[th.Tensor], gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT
) -> float:
    """Return the L2 norm of all gradients together; parameters without one count as zero.

    :param parameters: whose gradients
    :param gradients: of some of them, in place of what their ``.grad`` holds
    """
    found = [gradients.get(parameter, parameter.grad) for parameter in parameters]
    return _norm([gradient for gradient in found if gradient is not None])


def zero_gradient_fraction(
    parameters: Iterable[th.Tensor], gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT
) -> float:
    """Return the share of weights whose gradient is exactly zero, or missing.

    :param parameters: whose gradients
    :param gradients: of some of them, in place of what their ``.grad`` holds
    :raises ValueError: if there are no parameters
    """
    zeros = total = 0
    for parameter in parameters:
        total += parameter.numel()
        gradient = gradients.get(parameter, parameter.grad)
        moved = 0 if gradient is None else int(gradient.count_nonzero())
        zeros += parameter.numel() - moved
    if total == 0:
        raise ValueError("`parameters` must hold at least one weight, got none")
    return zeros / total


def _norm(tensors: list[th.Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(th.linalg.vector_norm(th.stack([th.linalg.vector_norm(t) for t in tensors])))
