"""One map from the numbers of old networks to those of new ones, along which everything is copied.

All numbers of some networks stand in one long row. A map says which places of one row come from
which of the other; weights, target networks, what optimizers keep and where penalties draw weights
to are all copied along it. While it is made, every tensor shows the places of its numbers in place
of these, so that it can be made with the networks' own modules, an expert's plain ones too.

Shapes: n experts that hold a tensor together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch as th
from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.policies.masks import COUNTS
from sb3_moe.policies.networks import Networks
from sb3_moe.policies.optimizers import ExpertAdam

#: What stands in a tensor's place: as many numbers, one number for all, or None for nothing.
Read = Callable[[th.Tensor], th.Tensor | None]
#: The power of the gradient that an average grows with; 0 of a count, of which the largest stays.
Kind = Literal["weight", 0, 1, 2]
#: Since when numbers are there: since before, as those of an expert that stays; or they are of a
#: copy; or they are new.
Age = Literal["kept", "copied", "new"]

# Optimizers with other averages start anew.
POWERS: dict[str, Kind] = {
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "square_avg": 2,
    "momentum_buffer": 1,
}


def tensors_of(module: nn.Module) -> list[th.Tensor]:
    """Return a module's parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def itself(tensor: th.Tensor) -> th.Tensor:
    """Return a tensor: the :data:`Read` of weights."""
    return tensor


class Numbers:
    """The places of all numbers of some networks.

    :param modules: the networks
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.starts: dict[th.Tensor, int] = {}
        self.total = 0
        for tensor in dict.fromkeys(each for module in modules for each in tensors_of(module)):
            self.starts[tensor] = self.total
            self.total += tensor.numel()

    def places(self, tensor: th.Tensor) -> th.Tensor:
        """Return the places of a tensor's numbers, shaped as it is."""
        start = self.starts[tensor]
        return th.arange(start, start + tensor.numel()).view(tensor.shape)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let each tensor hold the places of its numbers for a while."""
        before = {tensor: tensor.data for tensor in self.starts}
        try:
            for tensor in before:
                tensor.data = self.places(tensor).double()
            yield
        finally:
            for tensor, data in before.items():
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
    :param value: what is added to that: a number, or one for each place
    :param age: since when they are there
    :param adds: whether all this is added to what stands there
    """

    into: th.Tensor
    origins: Sequence[Origin] = ()
    value: th.Tensor | float = 0.0
    age: Age = "kept"
    adds: bool = False


class CopyMap:
    """Where all numbers of new networks come from.

    :param new: the new networks; what has no entry stays as it was drawn
    :param old: the old ones
    """

    def __init__(self, new: nn.Module, *old: nn.Module) -> None:
        self.new, self.old = Numbers(new), Numbers(*old)
        self.entries: list[Entry] = []
        self._weights = self.old.row(itself)
        layers = [module for module in new.modules() if isinstance(module, MoELayer)]
        shares = [share for layer in layers for share in layer.experts.shares()]
        self._num_experts: dict[th.Tensor, int] = {s.parameter: s.num_experts for s in shares}

    # Making it.

    @contextmanager
    def made(self) -> Iterator[None]:
        """Let the tensors of all networks show places, as the methods that make a map want them."""
        with ExitStack() as stack:
            for numbers in (self.new, self.old):
                stack.enter_context(numbers.shown())
            yield

    def copy(
        self, into: th.Tensor, source: th.Tensor, weight: float = 1.0, gate: float = 1.0
    ) -> None:
        """Let numbers be those of the old networks, ``weight`` times as large.

        :param gate: how many times larger their gradient is
        :raises ValueError: if they are not as many
        """
        if into.shape != source.shape:
            raise ValueError(
                "layers must be as wide as those they come from, or wider (`expert_width`): a "
                f"part has the shape {tuple(into.shape)}, and theirs {tuple(source.shape)}"
            )
        self.entries.append(Entry(shown_in(into), [Origin(shown_in(source), weight, gate)]))

    def fill(self, into: th.Tensor, value: th.Tensor | float, *, adds: bool = False) -> None:
        """Let a number, or one for each place, stand there, or be added."""
        self.entries.append(Entry(shown_in(into), value=value, age="new", adds=adds))

    def size_of(self, source: th.Tensor) -> float:
        """Return the size of old weights: the root of their mean square."""
        return self._weights[shown_in(source)].square().mean().sqrt().item()

    def move_apart(self, lasts: Sequence[th.Tensor], gates: Sequence[float], size: float) -> None:
        """Move weights of several experts apart, so that it cancels under their gates.

        :param lasts: each expert's last weights
        :param gates: of these experts
        :param size: of the moves
        """
        drawn = [th.randn(into.shape).double() for into in lasts]
        mean = sum(gate * move for gate, move in zip(gates, drawn, strict=True)) / sum(gates)
        for into, move in zip(lasts, drawn, strict=True):
            self.fill(into, (move - mean) * size, adds=True)

    # Copying along it.

    def follow(
        self, new: th.Tensor, old: th.Tensor, kind: Kind = "weight", skip: Sequence[Age] = ()
    ) -> th.Tensor:
        """Write numbers into the row of new networks, and return it.

        :param new: what stands in the new networks
        :param old: what stands in the old ones
        :param kind: what numbers these are
        :param skip: numbers of which age stay as they stand there
        """
        for into, origins, value, age, adds in self.entries:
            if age not in skip:
                found = value + _together(origins, old, kind) if origins else value
                new[into] = found + new[into] if adds else found
        return new

    def write_weights(
        self, new: Networks, old: Networks, lagging: Mapping[th.Tensor, th.Tensor] | None = None
    ) -> None:
        """Write weights and buffers, and those of target networks, which lag behind as before.

        :param lagging: what lags behind tensors that are in no policy
        """
        self.new.write(self.follow(self.new.row(itself), self._weights), itself)
        ours, theirs = followers(new), followers(old) | dict(lagging or {})
        # What is new stands in a target as it does in the online network.
        row = self.follow(self.new.row(itself), self.old.row(lambda each: theirs.get(each, each)))
        self.new.write(row, ours.get)

    def states(
        self, states: Mapping[th.Tensor, Mapping[str, Any]], optimizer: th.optim.Optimizer
    ) -> dict[th.Tensor, dict[str, Any]]:
        """Return what an optimizer knows of new parameters: nothing of those without origins.

        An average of gradients follows the gates that reach the weights, and one of squares their
        squares. Of what has joined it is 0, and an expert begins to count its steps. A square that
        is 0 behind many steps would make the next ones too large: where no expert counts its own
        steps it begins as the mean of the others.

        :param states: of the old parameters
        :param optimizer: that has the new parameters
        """
        names = {name for state in states.values() for name in state}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found: dict[th.Tensor, dict[str, Any]] = {p: {} for p in parameters if p in self.new.starts}
        for name in sorted(names) if names <= {*POWERS, *COUNTS} else ():
            kind: Kind = POWERS.get(name, 0)
            old = self.old.row(partial(_as_row, states, name))
            row = self.follow(self.new.row(lambda tensor: None), old, kind, ("new",))
            for parameter, state in found.items():
                values = row[self.new.places(parameter)]
                if values.isnan().all():
                    continue
                # Torch's own optimizers have one count for a whole tensor.
                counts_each = isinstance(optimizer, ExpertAdam)
                n = self._num_experts.get(parameter, 1) if counts_each else 1
                by_expert = _known(values.reshape(n, -1), kind)
                if kind == 0:
                    state[name] = _counts(by_expert, optimizer, parameter)
                else:
                    state[name] = by_expert.view(parameter.shape).to(parameter)
        return {parameter: state for parameter, state in found.items() if state}


def shown_in(tensor: th.Tensor) -> th.Tensor:
    """Return the places that a tensor shows."""
    return tensor.detach().long()


def followers(networks: Networks) -> dict[th.Tensor, th.Tensor]:
    """Return the target's tensor for each online one that has any."""
    pairs = networks.targets().items()
    return {
        mine: theirs
        for online, target in pairs
        for mine, theirs in zip(tensors_of(online), tensors_of(target), strict=True)
    }


def _together(origins: Sequence[Origin], old: th.Tensor, kind: Kind) -> th.Tensor:
    parts = [old[origin.places] for origin in origins]
    if kind == 0:
        return th.stack(parts).amax(0)
    if kind == 2:  # as if the gradients had one direction
        return _together(origins, old.sqrt(), 1).square()
    factors = [origin.weight if kind == "weight" else origin.gate for origin in origins]
    return th.stack([part * by for part, by in zip(parts, factors, strict=True)]).sum(0)


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


def _known(by_expert: th.Tensor, kind: Kind) -> th.Tensor:
    """Return what is known, and what stands for it where nothing is."""
    rest = by_expert.nanmean(1, keepdim=True).nan_to_num(nan=0.0) if kind == 2 else th.zeros(1)
    return th.where(by_expert.isnan(), rest.to(by_expert), by_expert)


def _counts(by_expert: th.Tensor, optimizer: th.optim.Optimizer, parameter: th.Tensor) -> th.Tensor:
    """Return counts where the optimizer wants them: with the parameter, or else on the CPU."""
    group = optimizer.param_groups[0]
    device = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
    counts = by_expert.amax(1).to(device, th.float32)
    return counts if len(counts) > 1 else counts.squeeze(0)
