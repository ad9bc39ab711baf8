"""Map the numbers of old networks to those of new networks, and copy everything along the map.

Numbers are the elements of all parameters and buffers of some networks, put into one long row; the
index of a number in this row is its place. A :class:`CopyMap` says which places of the new row come
from which places of the old row. Weights, target networks, optimizer states and the weights that
penalties pull towards are all copied along it. While a map is made, every tensor holds the places
of its numbers instead of the numbers. So the map can be made from any view of the networks, such
as the plain modules of an expert.

Shapes: n experts that hold a tensor together.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor
from torch import Tensor, nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.encoder import ImageEncoder, Residual
from sb3_moe.layers.shares import tensors_of
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.masks import COUNTS
from sb3_moe.policies.moe_network import MoENetwork
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, kind_of, networks_of
from sb3_moe.policies.optimizers import ExpertAdam
from sb3_moe.vec_env.task_ids import TASK_KEY, has_task_key, one_hot_length

#: A function from a tensor to values for its numbers: one for each, one for all, or None.
Read = Callable[[Tensor], Tensor | None]
#: What numbers are: weights, averages of gradients (1) or of their squares (2), or counts (0), of
#: which the largest is taken where several come together.
Kind = Literal["weight", 0, 1, 2]
#: Where numbers come from: they were there before the change, as those of an expert that stays;
#: they belong to a copy of an expert; or they are new.
Age = Literal["kept", "copied", "new"]

# The averages that can be copied. An optimizer that keeps any other starts anew.
POWERS: dict[str, Kind] = {
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "square_avg": 2,
    "momentum_buffer": 1,
}
# The names of weights that multiply the input of a linear layer or of an LSTM.
READS = ("weight", "weight_ih_l0")


def itself(tensor: Tensor) -> Tensor:
    """Return the tensor itself: the :data:`Read` for weights."""
    return tensor


class Numbers:
    """The places of all numbers of some networks: their indices in one long row.

    :param modules: the networks
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.starts = {}
        self.total = 0
        for tensor in dict.fromkeys(each for module in modules for each in tensors_of(module)):
            self.starts[tensor] = self.total
            self.total += tensor.numel()

    def places(self, tensor: Tensor) -> Tensor:
        """Return the places of a tensor's numbers, in the tensor's shape."""
        start = self.starts[tensor]
        return th.arange(start, start + tensor.numel()).view(tensor.shape)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let each tensor hold the places of its numbers inside a ``with`` block."""
        before = {tensor: tensor.data for tensor in self.starts}
        try:
            for tensor in before:
                tensor.data = self.places(tensor).double()
            yield
        finally:
            for tensor, data in before.items():
                tensor.data = data

    def row(self, read: Read) -> Tensor:
        """Return the row of values for all places, nan where there is none.

        :param read: from a tensor of the networks to the values for its numbers
        """
        row = th.full((self.total,), math.nan, dtype=th.float64)
        for tensor, start in self.starts.items():
            if (value := read(tensor)) is not None:
                flat = value.detach().flatten().to("cpu", th.float64)
                row[start : start + tensor.numel()] = flat
        return row

    @th.no_grad()
    def write(self, row: Tensor, read: Read) -> None:
        """Write a row into tensors.

        :param row: a value for each place
        :param read: from a tensor of the networks to the tensor that its values are written into;
            None: they are not written
        """
        for tensor in self.starts:
            if (into := read(tensor)) is not None:
                values = row[self.places(tensor)]
                into.copy_(values if into.is_floating_point() else values.round())


class Origin(NamedTuple):
    """Numbers of the old networks that contribute to numbers of the new ones.

    :param places: the places of the old numbers
    :param weight: the factor by which the old numbers enter the new ones
    :param gate: the factor by which the gradients of the old numbers enter those of the new ones
    """

    places: Tensor
    weight: float = 1.0
    gate: float = 1.0


class Entry(NamedTuple):
    """Where some numbers of new networks come from.

    :param into: the places of the new numbers
    :param origins: the old numbers that they are the sum of
    :param value: what is added to this sum: a number, or one for each place
    :param age: whether they were there before, belong to a copy, or are new
    :param adds: whether all this is added to the values that these places have so far
    """

    into: Tensor
    origins: Sequence[Origin] = ()
    value: Tensor | float = 0.0
    age: Age = "kept"
    adds: bool = False


class CopyMap:
    """Where all numbers of new networks come from.

    :param new: the new policy; a number without an entry keeps its initial value
    :param old: the old policy
    :param parts: modules made from the old policy, from which numbers come too
    """

    def __init__(self, new: Any, old: Any, *parts: nn.Module) -> None:
        self.ours = networks_of(new)
        self.theirs = networks_of(old)
        self.new = Numbers(new)
        self.old = Numbers(old, *parts)
        self.entries: list[Entry] = []
        self._weights = self.old.row(itself)
        self._num_experts = {
            share.tensor: share.num_experts
            for layer in new.modules()
            if isinstance(layer, MoELayer)
            for share in layer.experts.shares()
        }

    # Making the map.

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let all tensors hold places inside a ``with`` block, as making the map needs them."""
        with self.new.shown(), self.old.shown():
            yield

    def copy(self, into: Tensor, source: Tensor, weight: float = 1.0, gate: float = 1.0) -> None:
        """Let new numbers be old ones times ``weight``.

        :param into: places of the new numbers
        :param source: places of the old numbers
        :param weight: factor of the numbers
        :param gate: factor of their gradients
        :raises ValueError: if ``into`` and ``source`` differ in shape
        """
        if into.shape != source.shape:
            raise ValueError(
                "layers must be as wide as those they come from, or wider (`expert_width`): a "
                f"new part has the shape {tuple(into.shape)}, the old one {tuple(source.shape)}"
            )
        self.entries.append(Entry(shown_in(into), [Origin(shown_in(source), weight, gate)]))

    def fill(self, into: Tensor, value: Tensor | float, *, adds: bool = False) -> None:
        """Set new numbers to one value, or to a value for each; or add it to them (``adds``)."""
        self.entries.append(Entry(shown_in(into), value=value, age="new", adds=adds))

    def size_of(self, source: Tensor) -> float:
        """Return the root mean square of old weights."""
        return self._weights[shown_in(source)].square().mean().sqrt().item()

    def move_apart(self, lasts: Sequence[Tensor], gates: Sequence[float], size: float) -> None:
        """Add noise to the weights of several experts, which cancels in the sum under their gates.

        :param lasts: the weights of each expert's last layer
        :param gates: the gates of these experts
        :param size: scale of the noise
        """
        drawn = [th.randn(into.shape).double() for into in lasts]
        mean = sum(gate * move for gate, move in zip(gates, drawn, strict=True)) / sum(gates)
        for into, move in zip(lasts, drawn, strict=True):
            self.fill(into, (move - mean) * size, adds=True)

    # Making the map layer by layer, for layers that run one after the other.

    def layer(
        self,
        new: nn.Module,
        old: nn.Module,
        columns: Tensor | None = None,
        scale: float = 1.0,
        gate: float = 1.0,
    ) -> None:
        """Copy a layer. Its units become the first units of the new layer, which may be wider.

        :param columns: the column of each old input in the new layer; None: the same as before
        :param scale: factor of the numbers
        :param gate: factor of their gradients
        """
        theirs = old.state_dict()
        for name, into in new.state_dict().items():
            source = theirs[name]
            if source.dim() == 2 and name in READS:
                into = into[: len(source)]
                at = th.arange(source.shape[1]) if columns is None else columns
                if len(at) < into.shape[1]:
                    self.fill(into, 0.0)
                into = into[:, at[at < into.shape[1]]]  # if some don't fit, `copy` raises
            elif source.dim() == 1:
                into = into[: len(source)] if columns is None or not is_norm(new) else into[columns]
            self.copy(into, source, scale, gate)

    def in_order(
        self,
        new: Sequence[nn.Module],
        old: Sequence[nn.Module],
        columns: Tensor | None,
        gate: float = 1.0,
    ) -> Tensor | None:
        """Copy layers that run one after the other.

        :param columns: the column of each old input in the first linear layer; None: the same as
            before
        :param gate: as in :meth:`layer`
        :return: ``columns`` for the layer that comes after these
        :raises ValueError: if the new layers are of other kinds than the old ones
        """
        mine, theirs = (
            [(isinstance(m, nn.Linear), *m.state_dict()) for m in each] for each in (new, old)
        )
        if mine != theirs:
            raise ValueError(
                "`model` must have layers as SB3 has, with an activation behind each hidden layer, "
                f"in the new model's order: {mine}, got {theirs}"
            )
        for into, source in zip(new, old, strict=True):
            self.layer(into, source, columns, gate=gate)
            columns = None if isinstance(into, nn.Linear) else columns
        return columns

    def networks(self, cure: str = "") -> Iterator[tuple[Network, Network, Tensor | None]]:
        """Copy everything but hidden layers and heads, and yield each pair of networks.

        A pair is a new network and its old one. With it comes the column of each old input in the
        new network's first layer; None: the same as before.

        :param cure: what an error tells the user to do if gSDE's noise is for a latent of another
            width; empty: there is no error, and the noise stays new
        :raises ValueError: if there is such noise, and a cure
        """
        for mine, other in zip(self.ours.networks(), self.theirs.networks(), strict=True):
            at = columns(self.ours.policy, mine, self.theirs.policy, other)
            if own := tensors_of(mine.extractor):
                self._alike(own, tensors_of(other.extractor))
            if mine.memory is not None and other.memory is not None:
                self.layer(_remembers(mine.memory), _remembers(other.memory), at)
            yield mine, other, None if mine.memory is not None else at
        known = self.theirs.loose()
        for name, loose in self.ours.loose().items():
            if all(a.shape == b.shape for a, b in zip(loose, known[name], strict=True)):
                self._alike(loose, known[name])
            elif cure:
                raise ValueError(f"gSDE's {name} has the width of the old hidden layer: {cure}")

    def _alike(self, new: Sequence[Tensor], old: Sequence[Tensor]) -> None:
        for mine, theirs in zip(new, old, strict=True):
            self.copy(mine, theirs)

    # Copying along the map.

    def follow(
        self, new: Read, old: Read, kind: Kind = "weight", skip: Sequence[Age] = ()
    ) -> Tensor:
        """Return the row of the new networks, with all values that come from old ones.

        :param new: the values of the new networks' tensors so far
        :param old: the values of the old networks' tensors
        :param kind: what numbers these are
        :param skip: numbers of these ages keep their values so far
        """
        row = self.new.row(new)
        was = self.old.row(old)
        for into, origins, value, age, adds in self.entries:
            if age not in skip:
                found = value + _together(origins, was, kind) if origins else value
                row[into] = found + row[into] if adds else found
        return row

    def write_weights(self, lagging: Mapping[Tensor, Tensor] | None = None) -> None:
        """Write weights and buffers of online networks, and of target networks from old targets.

        :param lagging: the target's tensor for each old online tensor that is in no policy
        """
        self.new.write(self.follow(itself, itself), itself)
        ours = self.ours.followers()
        theirs = self.theirs.followers() | dict(lagging or {})
        # New numbers are the same in a target network as in the online network.
        self.new.write(self.follow(itself, lambda each: theirs.get(each, each)), ours.get)

    def states(
        self, states: Mapping[Tensor, Mapping[str, Any]], optimizer: th.optim.Optimizer
    ) -> dict[Tensor, dict[str, Any]]:
        """Return an optimizer's states of new parameters; one without origins has none.

        Averages of gradients are multiplied by the factors of the gradients, averages of squares
        by the squares of these factors. New numbers start with averages of 0, and a new expert
        starts with a count of 0 steps. After many counted steps, though, an average of squares that
        is 0 would make the next steps too large: new numbers that share their count with old ones
        start with the mean of the old numbers' squares.

        :param states: the states of the old parameters
        :param optimizer: the optimizer of the new parameters
        """
        names = {name for state in states.values() for name in state}
        found: dict[Tensor, dict[str, Any]] = {
            parameter: {}
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter in self.new.starts
        }
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


def shown_in(tensor: Tensor) -> Tensor:
    """Return the places that a tensor holds while a map is made."""
    return tensor.detach().long()


def _together(origins: Sequence[Origin], old: Tensor, kind: Kind) -> Tensor:
    if kind == 0:
        return th.stack([old[each.places] for each in origins]).amax(0)
    if kind == 2:  # as if the gradients had one direction
        return _together(origins, old.sqrt(), 1).square()
    terms = [old[at] * (weight if kind == "weight" else gate) for at, weight, gate in origins]
    return th.stack(terms).sum(0)


def _as_row(states: Mapping[Tensor, Mapping[str, Any]], name: str, tensor: Tensor) -> Tensor | None:
    """Return an entry of a parameter's state, expanded to a value for each of its numbers."""
    value = states.get(tensor, {}).get(name)
    if value is None:
        return None
    value = th.as_tensor(value)
    if value.shape == tensor.shape:
        return value
    return value.reshape(-1, 1).expand(-1, tensor.numel() // value.numel())


def _known(by_expert: Tensor, kind: Kind) -> Tensor:
    """Replace nan by the mean of the same expert's squares, or by 0 if they are no squares."""
    rest = by_expert.nanmean(1, keepdim=True).nan_to_num(nan=0.0) if kind == 2 else th.zeros(1)
    return th.where(by_expert.isnan(), rest.to(by_expert), by_expert)


def _counts(by_expert: Tensor, optimizer: th.optim.Optimizer, parameter: Tensor) -> Tensor:
    """Return counts on the device that the optimizer wants: the parameter's, or the CPU."""
    group = optimizer.param_groups[0]
    device = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
    counts = by_expert.amax(1).to(device, th.float32)
    return counts if len(counts) > 1 else counts.squeeze(0)


# Layers.


def _remembers(memory: nn.Module) -> Any:
    """Return an LSTM, or a critic's layer out of a module that hands on the task id."""
    return getattr(memory, "layer", memory)


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


def columns(new: Any, mine: Network, old: Any, other: Network) -> Tensor | None:
    """Return the column of each old input in the first layer of a new network.

    :param new: the new policy
    :param mine: its network
    :param old: the old policy
    :param other: its network
    :return: None if the columns are the same as before
    :raises ValueError: if the new network doesn't see all that the old one sees
    """
    ours = _inputs(new, mine)
    theirs = _inputs(old, other)
    if encodes(mine):  # its own encoder replaces the other's extractor
        tasks = len(ours) - _width(mine.extractor)
        ours = list(range(_width(other.extractor) + tasks))
    if not set(theirs) <= set(ours):
        raise ValueError("`task_input` must let new layers see all that the dense ones see")
    if ours == theirs:
        return None
    found = [ours.index(each) for each in theirs]
    if kind_of(mine.name) == "qf" and networks_of(new).critic_optimizer() is not None:
        # These critics see the action after the features.
        found += range(len(ours), len(ours) + get_action_dim(new.action_space))
    return th.tensor(found)


def encodes(network: Network) -> bool:
    """Say whether a network encodes images itself, as whole-network experts do."""
    extractor = network.extractor
    return isinstance(extractor, TaskExtractor) and extractor.image_shape is not None


def _width(extractor: Any) -> int:
    """Return how many features there are besides the task id."""
    return int(extractor.features_dim) - one_hot_length(extractor)


def _inputs(policy: Any, network: Network) -> list[int]:
    """Return a number for each feature that the first layer of a network reads.

    Features are numbered in order, with the task id last: only SB3's extractor for Dicts has it
    among the others.
    """
    extractor: Any = network.extractor
    space = policy.observation_space
    names = list(range(extractor.features_dim))
    if isinstance(extractor, CombinedExtractor) and has_task_key(space):
        sizes = {
            key: getattr(part, "features_dim", None) or get_flattened_obs_dim(space[key])
            for key, part in extractor.extractors.items()
        }
        keys = list(sizes)
        before = sum(sizes[key] for key in keys[: keys.index(TASK_KEY)])
        rest = names[: -sizes[TASK_KEY]]
        names = [*rest[:before], *names[len(rest) :], *rest[before:]]
    hidden = (
        isinstance(policy, MoEPolicy) and not policy.moe[kind_of(network.name)].experts_see_task
    )
    return names[: _width(extractor)] if hidden else names
