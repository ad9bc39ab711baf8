"""One map from the numbers of old networks to those of new ones, along which everything is copied.

All numbers of some networks stand in one long row. A map says which places of one row come from
which of the other; weights, target networks, what optimizers keep and where penalties draw weights
to are all copied along it. While it is made, every tensor shows the places of its numbers in place
of these, so that it can be made with the networks' own modules, an expert's plain ones too.

Shapes: n experts that hold a tensor together.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.encoder import ImageEncoder, Residual
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.masks import COUNTS
from sb3_moe.policies.moe_network import MoENetwork
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, Networks, kind_of, networks_of
from sb3_moe.policies.optimizers import ExpertAdam
from sb3_moe.vec_env.task_ids import TASK_KEY, one_hot_behind

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
# What reads a linear layer's, or an LSTM's, input.
READS = ("weight", "weight_ih_l0")


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
        self._num_experts: dict[th.Tensor, int] = {s.tensor: s.num_experts for s in shares}

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

    # Making it layer by layer, of networks that run one behind the other.

    def layer(
        self,
        new: nn.Module,
        old: nn.Module,
        columns: th.Tensor | None = None,
        scale: float = 1.0,
        gate: float = 1.0,
    ) -> None:
        """Copy a layer, whose units become the first of the new one.

        :param columns: where each old input is found; None: where it was
        :param scale: how many times larger the numbers are
        :param gate: how many times larger their gradient is
        """
        mine, theirs = named_tensors(new), named_tensors(old)
        for name, into in mine.items():
            source = theirs[name]
            if source.dim() == 2 and name in READS:
                into = into[: len(source)]
                at = th.arange(source.shape[1]) if columns is None else columns
                if len(at) < into.shape[1]:
                    self.fill(into, 0.0)
                into = into[:, at[at < into.shape[1]]]  # where some don't fit, `copy` says so
            elif source.dim() == 1:
                into = into[: len(source)] if columns is None or not is_norm(new) else into[columns]
            self.copy(into, source, scale, gate)

    def in_order(
        self,
        new: Sequence[nn.Module],
        old: Sequence[nn.Module],
        columns: th.Tensor | None,
        gate: float = 1.0,
    ) -> th.Tensor | None:
        """Copy layers that run one behind the other.

        :param columns: where the first linear layer finds each of its old inputs
        :param gate: as of :meth:`layer`
        :return: where the layer behind them does
        :raises ValueError: if they are of other kinds
        """
        kinds = [
            [(isinstance(m, nn.Linear), *named_tensors(m)) for m in each] for each in (new, old)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "`model` must have layers as SB3 has, with an activation behind each hidden layer, "
                f"in the new model's order: {kinds[0]}, got {kinds[1]}"
            )
        for mine, theirs in zip(new, old, strict=True):
            self.layer(mine, theirs, columns, gate=gate)
            columns = None if isinstance(mine, nn.Linear) else columns
        return columns

    def networks(
        self, new: Any, old: Any, cure: str = ""
    ) -> Iterator[tuple[Network, Network, th.Tensor | None]]:
        """Copy all that is no hidden layer and no head, and yield each pair of networks.

        With each comes where its first layer finds each input of the other's; None: where it was.

        :param new: the new policy
        :param old: the other
        :param cure: what to do about gSDE's noise for a latent of another width; else it stays new
        :raises ValueError: if there is such noise, and a cure
        """
        ours, theirs = networks_of(new), networks_of(old)
        for mine, other in zip(ours.networks(), theirs.networks(), strict=True):
            at = columns(new, mine, old, other)
            if own := tensors_of(mine.extractor):
                self._alike(own, tensors_of(other.extractor))
            if mine.memory is not None and other.memory is not None:
                self.layer(_remembers(mine.memory), _remembers(other.memory), at)
            yield mine, other, None if mine.memory is not None else at
        known = theirs.loose()
        for name, loose in ours.loose().items():
            if all(a.shape == b.shape for a, b in zip(loose, known[name], strict=True)):
                self._alike(loose, known[name])
            elif cure:
                raise ValueError(f"gSDE's noise, {name}, is for a latent of another width: {cure}")

    def _alike(self, new: Sequence[th.Tensor], old: Sequence[th.Tensor]) -> None:
        for mine, theirs in zip(new, old, strict=True):
            self.copy(mine, theirs)

    # Copying along it.

    def follow(
        self, new: Read, old: Read, kind: Kind = "weight", skip: Sequence[Age] = ()
    ) -> th.Tensor:
        """Return the row of new networks, with the numbers that come from old ones.

        :param new: what stands in the new networks' tensors
        :param old: what stands in the old ones'
        :param kind: what numbers these are
        :param skip: numbers of which age stay as they stand there
        """
        row, was = self.new.row(new), self.old.row(old)
        for into, origins, value, age, adds in self.entries:
            if age not in skip:
                found = value + _together(origins, was, kind) if origins else value
                row[into] = found + row[into] if adds else found
        return row

    def write_weights(
        self, new: Networks, old: Networks, lagging: Mapping[th.Tensor, th.Tensor] | None = None
    ) -> None:
        """Write weights and buffers, and those of target networks, which lag behind as before.

        :param lagging: what lags behind tensors that are in no policy
        """
        self.new.write(self.follow(itself, itself), itself)
        ours, theirs = followers(new), followers(old) | dict(lagging or {})
        # What is new stands in a target as it does in the online network.
        self.new.write(self.follow(itself, lambda each: theirs.get(each, each)), ours.get)

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
            row = self.follow(lambda _: None, partial(_as_row, states, name), kind, ("new",))
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


# Layers.


def _remembers(memory: nn.Module) -> Any:
    """Return what holds the numbers: a critic's layer may hand on the task id beside its output."""
    return getattr(memory, "layer", memory)


def named_tensors(module: nn.Module) -> dict[str, th.Tensor]:
    """Return a module's parameters and buffers by name."""
    return dict([*module.named_parameters(), *module.named_buffers()])


def parts_of(*modules: nn.Module) -> Iterator[nn.Module]:
    """Yield layers and mixtures of experts in the order in which they run."""
    for module in modules:
        match module:
            case MoENetwork():
                encoder = [] if module.encoder is None else [module.encoder]
                yield from parts_of(*encoder, *(module.norms or ()), *module.blocks)
            case nn.Sequential():
                yield from parts_of(*module)
            case ImageEncoder():
                yield from parts_of(module.convs)
            case Residual():
                yield from parts_of(module.block)
            case _:
                yield module


def leaves_of(*modules: nn.Module) -> list[nn.Module]:
    """Return the layers that hold numbers, in the order in which they run."""
    return [part for part in parts_of(*modules) if tensors_of(part)]


# Columns.


def columns(new: Any, mine: Network, old: Any, other: Network) -> th.Tensor | None:
    """Return where the first layer of a network finds each input of another's.

    :param new: the policy of the one
    :param mine: the one
    :param old: the policy of the other
    :param other: the other
    :return: None: where it was
    :raises ValueError: if the one doesn't see all that the other does
    """
    ours, theirs = _inputs(new, mine), _inputs(old, other)
    if encodes(mine):  # its encoder makes of the image what the other's extractor makes of it
        tasks = len(ours) - _width(mine.extractor)
        ours = list(range(_width(other.extractor) + tasks))
    if not set(theirs) <= set(ours):
        raise ValueError("`task_input` must let new layers see all that the dense ones see")
    if ours == theirs:
        return None
    found = [ours.index(each) for each in theirs]
    if kind_of(mine.name) == "qf" and networks_of(new).critic_optimizer() is not None:
        # Critics of actions see these behind the features.
        found += range(len(ours), len(ours) + get_action_dim(new.action_space))
    return th.tensor(found)


def encodes(network: Network) -> bool:
    """Say whether a network holds the encoder of its images."""
    extractor = network.extractor
    return isinstance(extractor, TaskExtractor) and extractor.image_shape is not None


def _width(extractor: Any) -> int:
    """Return how many features there are besides the task id."""
    return int(extractor.features_dim) - one_hot_behind(extractor)


def _inputs(policy: Any, network: Network) -> list[int]:
    """Name the features that the first layer of a network reads.

    Where observations are only flattened, a feature's name is the place of what it shows, the task
    id behind all else: the extractor is given the places in place of an observation. Else features
    are numbered.
    """
    extractor: Any = network.extractor
    names = list(range(extractor.features_dim))
    is_flat = isinstance(extractor, TaskExtractor | CombinedExtractor | FlattenExtractor)
    if is_flat and not tensors_of(extractor):
        found = extractor(_places_seen(policy.observation_space)).flatten().long().tolist()
        if len(set(found)) == len(names):  # a one-hot made of an image's planes is none of these
            names = found
    hidden = (
        isinstance(policy, MoEPolicy) and not policy.moe[kind_of(network.name)].experts_see_task
    )
    return names[: _width(extractor)] if hidden else names


def _places_seen(space: spaces.Space[Any]) -> Any:
    """Return an observation, as SB3 preprocesses it, in which each number is its place."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    found, start = {}, 0
    for key in sorted(parts, key=lambda key: key == TASK_KEY):
        part = parts[key]
        size = get_flattened_obs_dim(part)
        places = th.arange(start, start + size, dtype=th.float32)
        found[key] = places.view(1, *(part.shape if isinstance(part, spaces.Box) else (-1,)))
        start += size
    return found if isinstance(space, spaces.Dict) else found[""]
