"""Copy along a map: weights, what optimizers keep of them, target networks.

Shapes: n experts that hold a tensor together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch as th

from sb3_moe.growing.numbers import Numbers
from sb3_moe.networks import Networks
from sb3_moe.optimizers import ExpertAdam

# Entries of an optimizer's state that count, and are the same for any gradient.
COUNTS = ("step", "mu_product")
# The power of the gradient that each average grows with: those of other names start anew.
POWERS: dict[str, Literal[0, 1, 2]] = {
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "exp_inf": 1,
    "square_avg": 2,
    "grad_avg": 1,
    "sum": 2,
}
# SGD makes it of gradients, RMSprop of steps, which don't grow with them.
MOMENTUM = "momentum_buffer"

Kind = Literal["weight", "count", 0, 1, 2]


class Origin(NamedTuple):
    """Numbers of the old networks that new ones have something of.

    :param places: theirs
    :param weight: how much of the numbers
    :param gate: how much of their gradient
    """

    places: th.Tensor
    weight: float = 1.0
    gate: float = 1.0


class Entry(NamedTuple):
    """Where some numbers of new networks come from.

    :param into: their places
    :param origins: what they are the sum of; none: ``value`` stands there
    :param value: a number, or one for each place; None without origins: they stay as drawn
    :param adds: whether ``value`` is added to what stands there
    :param joins: whether they are of an expert that is new, or a copy
    :param learns_anew: whether optimizers know nothing of them yet
    :param scale: how many times larger they will be made afterwards, in place of a gate
    """

    into: th.Tensor
    origins: Sequence[Origin] = ()
    value: th.Tensor | float | None = None
    adds: bool = False
    joins: bool = False
    learns_anew: bool = False
    scale: float = 1.0


Map = Sequence[Entry]


def copy_along(entries: Map, new: th.Tensor, old: th.Tensor, kind: Kind = "weight") -> None:
    """Write numbers into the row of new networks.

    :param entries: the map
    :param new: what stands in the new networks
    :param old: what stands in the old ones
    :param kind: weights; counts, of which the largest stays; or averages of that power of the
        gradient, which follow the gates (0: not)
    """
    for entry in entries:
        if entry.origins and (kind == "weight" or not entry.learns_anew):
            new[entry.into] = _sum(entry.origins, old, kind)
        elif entry.value is not None and not entry.origins and kind == "weight":
            new[entry.into] = new[entry.into] + entry.value if entry.adds else entry.value


def _sum(origins: Sequence[Origin], old: th.Tensor, kind: Kind) -> th.Tensor:
    parts = [old[origin.places] for origin in origins]
    if kind == "count":
        return th.stack(parts).amax(0)
    if kind == 2:  # as if the gradients had one direction
        if len(parts) == 1:
            return parts[0] * origins[0].gate ** 2
        parts = [part.sqrt() for part in parts]
    factors = [origin.gate if kind in (1, 2) else origin.weight for origin in origins]
    total = th.stack([part * factor for part, factor in zip(parts, factors, strict=True)]).sum(0)
    return total.square() if kind == 2 else total


def write_weights(entries: Map, new: Numbers, old: Numbers) -> None:
    """Write parameters and buffers."""
    row = new.row(lambda tensor: tensor)
    copy_along(entries, row, old.row(lambda tensor: tensor))
    new.write(row, lambda tensor: tensor)


def write_targets(
    entries: Map, new: Numbers, old: Numbers, networks: Networks, others: Networks
) -> None:
    """Write target networks, which lag behind in their own way, once weights are written.

    :param networks: of the new policy; a target has what is new as its online network has it
    :param others: of the old one
    """
    ours, theirs = followers(networks), followers(others)
    row = new.row(lambda tensor: tensor)
    copy_along(entries, row, old.row(lambda tensor: theirs.get(tensor, tensor)))
    new.write(row, ours.get)


def followers(networks: Networks) -> dict[th.Tensor, th.Tensor]:
    """Return the target's tensor for each online one that has any."""
    found: dict[th.Tensor, th.Tensor] = {}
    for online, target in networks.targets().items():
        found |= dict(zip(online.parameters(), target.parameters(), strict=True))
        found |= dict(zip(online.buffers(), target.buffers(), strict=True))
    return found


def carried_states(
    entries: Map,
    new: Numbers,
    old: Numbers,
    states: Mapping[th.Tensor, Mapping[str, Any]],
    optimizer: th.optim.Optimizer,
    parameters: Iterable[th.Tensor],
    experts: Mapping[th.Tensor, int],
) -> dict[th.Tensor, dict[str, Any]]:
    """Return what an optimizer knows of new parameters: nothing of those without origins.

    An average of gradients follows the gates that reach the weights, and one of squares their
    squares. Of what has joined it is 0, and an expert begins to count its steps. A square that is
    0 behind many steps would make the next ones too large: where no expert counts its own steps it
    begins as the mean of the others.

    :param entries: the map
    :param new: the numbers of the new networks
    :param old: the numbers of the old ones
    :param states: of the old parameters
    :param optimizer: that will have the new parameters
    :param parameters: all that it will have
    :param experts: how many hold a parameter together, if the optimizer counts their steps apart
    """
    names = {name for state in states.values() for name in state}
    if not names <= {*POWERS, *COUNTS, MOMENTUM}:
        return {}
    found: dict[th.Tensor, dict[str, Any]] = {}
    own = [parameter for parameter in parameters if parameter in new.starts]
    for name in sorted(names):
        power = POWERS.get(name, 1 if isinstance(optimizer, th.optim.SGD) else 0)
        kind: Kind = "count" if name in COUNTS else power
        row = new.row(lambda tensor: None)
        copy_along(entries, row, old.row(partial(_as_row, states, name)), kind)
        for parameter in own:
            values = row[new.places(parameter)]
            if not values.isnan().all():
                by_expert = values.reshape(experts.get(parameter, 1), -1)
                found.setdefault(parameter, {})[name] = (
                    _counted(by_expert, optimizer, parameter)
                    if kind == "count"
                    else _filled(by_expert, kind).view(parameter.shape).to(parameter)
                )
    return found


def _as_row(
    states: Mapping[th.Tensor, Mapping[str, Any]], name: str, tensor: th.Tensor
) -> th.Tensor | None:
    """Return an entry of a parameter's state with a number for each of its own."""
    value = states.get(tensor, {}).get(name)
    if value is None:
        return None
    value = th.as_tensor(value)
    if value.shape == tensor.shape:
        return value
    return value.reshape(-1, 1).expand(-1, tensor.numel() // value.numel())


def _filled(by_expert: th.Tensor, power: Kind) -> th.Tensor:
    if power != 2:
        return by_expert.nan_to_num(nan=0.0)
    means = by_expert.nanmean(1, keepdim=True).nan_to_num(nan=0.0)
    return th.where(by_expert.isnan(), means, by_expert)


def _counted(
    by_expert: th.Tensor, optimizer: th.optim.Optimizer, parameter: th.Tensor
) -> th.Tensor:
    """Return counts where the optimizer wants them: with the parameter, or else on the CPU."""
    group = optimizer.param_groups[0]
    device = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
    counts = by_expert.nan_to_num(nan=0.0).amax(1).to(device, th.float32)
    return counts if len(counts) > 1 else counts.squeeze(0)


def steps_by_expert(optimizer: th.optim.Optimizer, shares: Iterable[Any]) -> dict[th.Tensor, int]:
    """Return how many experts hold each parameter whose steps an optimizer counts one by one.

    :param optimizer: an ExpertAdam, or one of torch's, which count for a whole tensor
    :param shares: the tensors that experts hold, :class:`sb3_moe.layers.shares.Share`
    """
    if not isinstance(optimizer, ExpertAdam):
        return {}
    return {share.parameter: share.num_experts for share in shares}
