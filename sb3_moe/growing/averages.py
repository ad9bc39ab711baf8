"""Running averages and counts of an optimiser, for tensors that have come after others.

Shapes: X experts after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th

from sb3_moe.growing.inheritance import Inherited, Origin
from sb3_moe.growing.powers import filled, power_of
from sb3_moe.layers import Experts
from sb3_moe.networks.masks import COUNTS
from sb3_moe.optimizers import ExpertAdam

State = Mapping[str, Any]


def inherited_states(
    optimizer: th.optim.Optimizer, parts: Sequence[Inherited], experts: Sequence[Experts]
) -> dict[th.Tensor, dict[str, Any]]:
    """Return the states of new tensors, from those that an optimiser has of the old ones.

    Averages follow the gradient: an expert that takes over a share s of a gate has s times the
    first moment and s squared times the second. One that starts anew has none, and counts its own
    steps where the optimiser corrects by them.

    :param optimizer: with the states of the old tensors
    :param parts: of all new tensors that it has
    :param experts: the new ones among whose tensors some may be
    """
    by_tensor: dict[th.Tensor, list[Inherited]] = {}
    for part in parts:
        if isinstance(part.into.stored, th.nn.Parameter):
            by_tensor.setdefault(part.into.stored, []).append(part)
    found = {p: _state(optimizer, p, own) for p, own in by_tensor.items()}
    found = {p: state for p, state in found.items() if state}
    shares = {share.parameter for each in experts for share in each.shares()}
    if isinstance(optimizer, ExpertAdam):
        for tensor in shares & found.keys():
            found[tensor]["step"] = _steps(optimizer, by_tensor[tensor]).to(tensor.device)
    return found


def _state(
    optimizer: th.optim.Optimizer, tensor: th.Tensor, parts: Sequence[Inherited]
) -> dict[str, Any]:
    """Put a state together; empty where nothing is known."""
    sources = [o.held.stored for part in parts for o in part.origins]
    states = [optimizer.state.get(source) for source in sources]
    if not states or not all(states):
        return {}
    first = states[0]
    assert first is not None
    found: dict[str, Any] = {}
    for name, value in first.items():
        if name in COUNTS or value is None:
            found[name] = value.clone() if isinstance(value, th.Tensor) else value
        elif isinstance(value, th.Tensor) and value.shape == sources[0].shape:
            found[name] = _average(optimizer, tensor, parts, name)
        else:
            return {}
    return found


def _average(
    optimizer: th.optim.Optimizer, tensor: th.Tensor, parts: Sequence[Inherited], name: str
) -> th.Tensor:
    power = power_of(optimizer, name)
    average = th.full_like(tensor, th.nan, requires_grad=False)
    for part in parts:
        if not part.is_new:
            values = [(optimizer.state[o.held.stored][name], o) for o in part.origins]
            part.into.view(average).copy_(_joined(values, power))
    counts_own = isinstance(optimizer, ExpertAdam) and _is_experts(parts)
    return filled(average, power, from_zero=counts_own)


def _is_experts(parts: Sequence[Inherited]) -> bool:
    """Say whether a tensor is of experts: those that start anew have no origins there."""
    return any(part.is_new and not part.origins for part in parts)


def _joined(values: Sequence[tuple[th.Tensor, Origin]], power: int) -> th.Tensor:
    """Return an average of a sum of gradients; of squares as if they had one direction."""
    parts = [(origin.held.view(value), origin) for value, origin in values]
    first, origin = parts[0]
    if len(parts) == 1:
        factor = 1.0 if power == 0 else origin.gate**power
        return first if factor == 1.0 else first * factor
    if power == 0:
        return th.stack([part * origin.weight for part, origin in parts]).sum(0)
    if power == 2:
        return th.stack([part.sqrt() * origin.gate for part, origin in parts]).sum(0).square()
    return th.stack([part * origin.gate for part, origin in parts]).sum(0)


def _steps(optimizer: th.optim.Optimizer, parts: Sequence[Inherited]) -> th.Tensor:
    """Return each expert's count: the largest of those that it comes from."""
    counts = [
        max((_steps_of(optimizer, origin) for origin in part.origins), default=0.0)
        for part in parts
    ]
    return th.tensor(counts)


def _steps_of(optimizer: th.optim.Optimizer, origin: Origin) -> float:
    """Return an old expert's own count, or that of all.

    A tensor of counts is read as the tensor that it is about: its experts stand on its first axis.
    """
    stored = origin.held.stored
    own = optimizer.state[stored]["step"]
    if own.numel() == 1:
        return float(own)
    spread = own.repeat_interleave(stored.shape[0] // own.numel())
    shaped = spread.view(-1, *(1,) * (stored.dim() - 1)).expand_as(stored)
    return float(origin.held.view(shaped).flatten()[0])
