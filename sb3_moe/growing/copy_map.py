"""One map from the numbers of old networks to those of new ones, along which everything is copied.

All numbers of some networks stand in one long row. A map says which places of one row come from
which of the other; weights, target networks, what optimizers keep and where penalties draw weights
to are all copied along it. To know the places of a layer, its tensors hold them for a moment.

Shapes: n experts that hold a tensor together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch as th
from torch import nn

from sb3_moe.layers import Experts, MoELayer
from sb3_moe.layers.encoder import ImageEncoder, Residual
from sb3_moe.policies.masks import COUNTS
from sb3_moe.policies.networks import Networks
from sb3_moe.policies.optimizers import ExpertAdam

#: What stands in a tensor's place: as many numbers, one number for all, or None for nothing.
Read = Callable[[th.Tensor], th.Tensor | None]
Kind = Literal["weight", "count", 1, 2]

# The power of the gradient that each average grows with: optimizers with others start anew.
POWERS: dict[str, Kind] = {
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "square_avg": 2,
    "momentum_buffer": 1,
}


class Leaf(NamedTuple):
    """A module that holds numbers.

    :param is_linear: whether it is a linear layer
    :param places: of its numbers, shaped as its parameters and buffers are, by their names
    """

    is_linear: bool
    places: dict[str, th.Tensor]


class Numbers:
    """The places of all numbers of some networks.

    :param modules: the networks
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.starts: dict[th.Tensor, int] = {}
        self.total = 0
        for tensor in (each for module in modules for each in tensors_of(module)):
            if tensor not in self.starts:
                self.starts[tensor] = self.total
                self.total += tensor.numel()

    def places(self, tensor: th.Tensor) -> th.Tensor:
        """Return the places of a tensor's numbers, shaped as it is."""
        start = self.starts[tensor]
        return th.arange(start, start + tensor.numel()).view(tensor.shape)

    def leaves(self, modules: Iterable[nn.Module]) -> list[Leaf]:
        """Return what holds numbers in plain modules that run one after the other."""
        return list(_leaves(modules, self.places))

    def experts(self, experts: Experts) -> list[list[Leaf]]:
        """Return what holds numbers in each expert, as if it were a plain network."""
        tensors = tensors_of(experts)
        before = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = self.places(tensor).double()
            plain = [experts.expert(k) for k in range(experts.num_experts)]
            return [list(_leaves(each, lambda tensor: tensor.detach().long())) for each in plain]
        finally:
            for tensor, data in zip(tensors, before, strict=True):
                tensor.data = data

    def row(self, read: Read) -> th.Tensor:
        """Return what stands in each place: nan where nothing is known.

        :param read: from a tensor of the networks to what stands in its place
        """
        row = th.full((self.total,), math.nan, dtype=th.float64)
        for tensor, start in self.starts.items():
            if (value := read(tensor)) is not None:
                flat = value.detach().flatten().to("cpu", th.float64)
                row[start : start + tensor.numel()] = flat
        return row

    @th.no_grad()
    def write(self, row: th.Tensor, read: Read) -> None:
        """Write a row into tensors.

        :param row: of :meth:`row`
        :param read: from a tensor of the networks to the one that is written; None: none is
        """
        for tensor in self.starts:
            if (into := read(tensor)) is not None:
                values = row[self.places(tensor)]
                into.copy_(values if into.is_floating_point() else values.round())


def tensors_of(module: nn.Module) -> list[th.Tensor]:
    """Return a module's parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def _leaves(
    modules: Iterable[nn.Module], places: Callable[[th.Tensor], th.Tensor]
) -> Iterator[Leaf]:
    for module in modules:
        match module:
            case nn.Sequential():
                yield from _leaves(module, places)
            case ImageEncoder():
                yield from _leaves(module.convs, places)
            case Residual():
                yield from _leaves([module.block], places)
            case _:
                named = [*module.named_parameters(), *module.named_buffers()]
                if named:
                    found = {name: places(tensor) for name, tensor in named}
                    yield Leaf(isinstance(module, nn.Linear), found)


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
    :param origins: what they are the sum of
    :param value: what stands there without origins: a number, or one for each place; None: what
        was drawn
    :param adds: whether ``value`` is added to what stands there
    :param joins: whether they are of an expert that is new, or a copy
    :param learns_anew: whether optimizers know nothing of them yet
    """

    into: th.Tensor
    origins: Sequence[Origin] = ()
    value: th.Tensor | float | None = None
    adds: bool = False
    joins: bool = False
    learns_anew: bool = False


class CopyMap:
    """Where all numbers of new networks come from.

    :param new: the new networks; what has no entry stays as it was drawn
    :param old: the old ones
    """

    def __init__(self, new: nn.Module, *old: nn.Module) -> None:
        self.new, self.old = Numbers(new), Numbers(*old)
        self.entries: list[Entry] = []

    def copy(
        self, into: th.Tensor, places: th.Tensor, weight: float = 1.0, gate: float = 1.0
    ) -> None:
        """Let numbers be those of the old networks, ``weight`` times as large.

        :param gate: how many times larger their gradient is
        :raises ValueError: if they are not as many
        """
        if into.shape != places.shape:
            raise ValueError(
                "layers must be as wide as those they come from, or wider (`expert_width`): a "
                f"part has the shape {tuple(into.shape)}, and theirs {tuple(places.shape)}"
            )
        self.entries.append(Entry(into, (Origin(places, weight, gate),)))

    def fill(self, into: th.Tensor, value: th.Tensor | float, *, adds: bool = False) -> None:
        """Let a number, or one for each place, stand there, or be added."""
        self.entries.append(Entry(into, value=value, adds=adds))

    def size_of(self, places: th.Tensor) -> float:
        """Return the size of old weights: the root of their mean square."""
        return self.old.row(itself)[places].square().mean().sqrt().item()

    def move_apart(self, lasts: Sequence[th.Tensor], gates: Sequence[float], size: float) -> None:
        """Move weights of several experts apart, so that it cancels under their gates.

        :param lasts: the places of each expert's last weights
        :param gates: of these experts
        :param size: of the moves
        """
        drawn = [th.randn(into.shape).double() for into in lasts]
        mean = sum(gate * move for gate, move in zip(gates, drawn, strict=True)) / sum(gates)
        for into, move in zip(lasts, drawn, strict=True):
            self.fill(into, (move - mean) * size, adds=True)

    # Copying along it.

    def follow(self, new: th.Tensor, old: th.Tensor, kind: Kind = "weight") -> th.Tensor:
        """Write numbers into the row of new networks, and return it.

        :param new: what stands in the new networks
        :param old: what stands in the old ones
        :param kind: weights; counts, of which the largest stays; or averages of that power of the
            gradient, which follow the gates
        """
        for entry in self.entries:
            if entry.origins and (kind == "weight" or not entry.learns_anew):
                new[entry.into] = _together(entry.origins, old, kind)
            elif entry.value is not None and kind == "weight":
                new[entry.into] = entry.value + (new[entry.into] if entry.adds else 0.0)
        return new

    def write_weights(self) -> None:
        """Write parameters and buffers."""
        self.new.write(self.follow(self.new.row(itself), self.old.row(itself)), itself)

    def write(
        self, new: Networks, old: Networks, lagging: Mapping[th.Tensor, th.Tensor] | None = None
    ) -> None:
        """Write weights and buffers, and those of target networks, which lag behind as before.

        :param lagging: what lags behind tensors that are in no policy
        """
        self.write_weights()
        ours, theirs = followers(new), followers(old) | dict(lagging or {})
        # What is new stands in a target as it does in the online network.
        row = self.follow(self.new.row(itself), self.old.row(lambda each: theirs.get(each, each)))
        self.new.write(row, ours.get)

    def write_states(self, new: Networks, old: Networks, layers: Collection[MoELayer]) -> None:
        """Write what optimizers know, where the new ones are of the old ones' kinds.

        :param layers: the new layers of experts
        """
        pairs = [*zip(new.every_optimizer(), old.every_optimizer(), strict=True)]
        # One that knows experts is of a class made from the one that doesn't.
        if all(isinstance(a, type(b)) or isinstance(b, type(a)) for a, b in pairs):
            states = {p: s for _, each in pairs for p, s in each.state.items() if s}
            for mine, _ in pairs:
                mine.state.update(self.states(states, mine, parameters_of(mine), layers))

    def states(
        self,
        states: Mapping[th.Tensor, Mapping[str, Any]],
        optimizer: th.optim.Optimizer,
        parameters: Iterable[th.Tensor],
        layers: Iterable[MoELayer],
    ) -> dict[th.Tensor, dict[str, Any]]:
        """Return what an optimizer knows of new parameters: nothing of those without origins.

        An average of gradients follows the gates that reach the weights, and one of squares their
        squares. Of what has joined it is 0, and an expert begins to count its steps. A square that
        is 0 behind many steps would make the next ones too large: where no expert counts its own
        steps it begins as the mean of the others.

        :param states: of the old parameters
        :param optimizer: that will have the new parameters
        :param parameters: all that it will have
        :param layers: the new layers of experts
        """
        names = {name for state in states.values() for name in state}
        if not names <= {*POWERS, *COUNTS}:
            return {}
        experts: dict[th.Tensor, int] = {}
        if isinstance(optimizer, ExpertAdam):  # torch's own count for a whole tensor
            shares = (share for layer in layers for share in layer.experts.shares())
            experts = {share.parameter: share.num_experts for share in shares}
        found: dict[th.Tensor, dict[str, Any]] = {}
        own = [parameter for parameter in parameters if parameter in self.new.starts]
        for name in sorted(names):
            kind = POWERS.get(name, "count")
            old = self.old.row(partial(_as_row, states, name))
            row = self.follow(self.new.row(lambda tensor: None), old, kind)
            for parameter in own:
                values = row[self.new.places(parameter)]
                if not values.isnan().all():
                    by_expert = values.reshape(experts.get(parameter, 1), -1)
                    found.setdefault(parameter, {})[name] = (
                        _counted(by_expert, optimizer, parameter)
                        if kind == "count"
                        else _filled(by_expert, kind).view(parameter.shape).to(parameter)
                    )
        return found


def parameters_of(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    """Return an optimizer's parameters in their order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def itself(tensor: th.Tensor) -> th.Tensor:
    """Return a tensor: the :data:`Read` of weights."""
    return tensor


def followers(networks: Networks) -> dict[th.Tensor, th.Tensor]:
    """Return the target's tensor for each online one that has any."""
    found: dict[th.Tensor, th.Tensor] = {}
    for online, target in networks.targets().items():
        found |= dict(zip(tensors_of(online), tensors_of(target), strict=True))
    return found


def _together(origins: Sequence[Origin], old: th.Tensor, kind: Kind) -> th.Tensor:
    parts = th.stack([old[origin.places] for origin in origins])
    if kind == "count":
        return parts.amax(0)
    factors = [origin.weight if kind == "weight" else origin.gate for origin in origins]
    by_part = parts.new_tensor(factors).view(-1, *[1] * (parts.dim() - 1))
    if kind == 2:  # as if the gradients had one direction
        return (parts.sqrt() * by_part).sum(0).square()
    return (parts * by_part).sum(0)


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
