"""Which numbers of plain layers come from which others, in networks that run one behind the other.

Shapes: A action dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_moe.growing.copy_map import CopyMap, Leaf, Numbers, tensors_of
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_network import MoENetwork
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, Networks, kind_of, networks_of
from sb3_moe.vec_env.task_ids import TASK_KEY, one_hot_behind

# What reads an LSTM's, or a linear layer's, input.
READS = ("weight_ih_l0", "weight")


class LayerMap(CopyMap):
    """A map that is made layer by layer."""

    def linear(
        self,
        new: Leaf,
        old: Leaf,
        columns: th.Tensor | None = None,
        scale: float = 1.0,
        gate: float = 1.0,
    ) -> None:
        """Copy a linear layer, whose units become the first of the new one.

        :param columns: where each old input is found; None: where it was
        :param scale: how many times larger weights and bias are
        :param gate: how many times larger the gradient is
        """
        source = old.places["weight"]
        own = new.places["weight"][: len(source)]
        at = th.arange(source.shape[1]) if columns is None else columns
        if len(at) < own.shape[1]:
            self.fill(own, 0.0)
        at = at[at < own.shape[1]]  # where some don't fit, `copy` says so
        self.copy(own[:, at], source, scale, gate)
        if "bias" in new.places:
            self.copy(new.places["bias"][: len(source)], old.places["bias"], scale, gate)

    def layer(
        self, new: Leaf, old: Leaf, *, columns: th.Tensor | None = None, gate: float = 1.0
    ) -> None:
        """Copy a layer of any kind: numbers for each unit, or for all alike, if it isn't linear.

        :raises ValueError: if they are of two kinds
        """
        if new.is_linear != old.is_linear or new.places.keys() != old.places.keys():
            raise ValueError(
                "`model` must have layers that can stand where the new one has its own, in their "
                f"order, got one with {[*old.places]} for one with {[*new.places]}"
            )
        if new.is_linear:
            self.linear(new, old, columns, gate=gate)
            return
        is_conv = any(each.dim() > 1 for each in old.places.values())  # it reads no features
        for name, into in new.places.items():
            source = old.places[name]
            alike = source.numel() == into.numel() == 1  # of one unit, or for all alike
            if source.dim() == 1 and not alike and not is_conv:
                reads = columns is not None and len(source) == len(columns)
                into = into[columns] if reads else into[: len(source)]
            self.copy(into, source, gate=gate)

    def in_order(self, new: Sequence[Leaf], old: Sequence[Leaf], columns: th.Tensor | None) -> None:
        """Copy layers that run one behind the other.

        :param columns: where the first linear layer finds each of its old inputs
        """
        if len(new) != len(old):
            raise ValueError(
                "`model` must have layers as SB3 has, with an activation behind each hidden layer, "
                f"got {len(old)} that hold numbers for {len(new)}"
            )
        for leaf, source in zip(new, old, strict=True):
            self.layer(leaf, source, columns=columns)
            columns = None if leaf.is_linear else columns

    def networks(
        self, new: Any, old: Any, cure: str = ""
    ) -> Iterator[tuple[Network, Network, th.Tensor | None]]:
        """Copy all that is no hidden layer and no head, and yield each pair of networks.

        With each comes where its first layer finds each input of the other's; None: where it was.

        :param new: the new policy
        :param old: the other
        :param cure: what to do about gSDE's noise for a latent of another width; else it stays new
        """
        ours, theirs = networks_of(new), networks_of(old)
        for mine, other in zip(ours.networks(), theirs.networks(), strict=True):
            at = columns(new, mine, old, other)
            self.extractor(mine.extractor, other.extractor)
            self.memory(mine.memory, other.memory, at)
            yield mine, other, None if mine.memory is not None else at
        self.loose(ours, theirs, cure)

    def extractor(self, new: nn.Module, old: nn.Module) -> None:
        """Copy the encoder of an extractor, if the new one still has any."""
        pairs = zip(tensors_of(new), tensors_of(old), strict=True) if tensors_of(new) else ()
        for mine, other in pairs:
            self.copy(self.new.places(mine), self.old.places(other))

    def memory(self, new: nn.Module | None, old: nn.Module | None, at: th.Tensor | None) -> None:
        """Copy an LSTM or a linear layer between extractor and hidden layers, if there is one.

        :param at: where the new one finds each input of the old one; None: where it was
        """
        if new is None or old is None:
            return
        for (name, mine), theirs in zip(new.named_parameters(), old.parameters(), strict=True):
            into, places = self.new.places(mine), self.old.places(theirs)
            reads = name.split(".")[-1] in READS
            leaves = Leaf(reads, {"weight": into}), Leaf(reads, {"weight": places})
            self.layer(*leaves, columns=at if reads else None)

    def loose(self, new: Networks, old: Networks, cure: str = "") -> None:
        """Copy parameters that lie in no layer, such as ``log_std``.

        :param cure: what to do about gSDE's noise for a latent of another width; else it stays new
        :raises ValueError: if there is such noise, and a cure
        """
        theirs = old.loose()
        for name, own in new.loose().items():
            for mine, other in zip(own, theirs[name], strict=True):
                if mine.shape == other.shape:
                    self.copy(self.new.places(mine), self.old.places(other))
                elif cure:
                    raise ValueError(
                        f"gSDE's noise, {name}, is for a latent of another width than the dense "
                        f"model has: {cure}"
                    )


def parts_of(modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield plain modules and blocks of experts in the order in which they run."""
    for module in modules:
        if isinstance(module, MoENetwork):
            encoder = [] if module.encoder is None else [module.encoder]
            yield from parts_of([*encoder, *(module.norms or ()), *module.blocks])
        elif isinstance(module, nn.Sequential):
            yield from parts_of(list(module))
        else:
            yield module


def dense_leaves(numbers: Numbers, network: Network) -> tuple[list[Leaf], list[Leaf]]:
    """Return what holds numbers in a dense network: hidden layers, and heads apart from them."""
    hidden = numbers.leaves(parts_of([network.hidden]))
    return hidden, [leaf for head in network.heads for leaf in numbers.leaves(parts_of([head]))]


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
    if missing := set(theirs) - set(ours):
        raise ValueError(
            "`task_input` must let the new layers see all that the dense ones see: "
            f"{len(theirs)} features, got {len(theirs) - len(missing)} of them"
        )
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
