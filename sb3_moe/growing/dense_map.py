"""Which numbers of a network come from which dense layers, in either direction.

Shapes: A action dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor
from torch import nn

from sb3_moe.growing.copying import Entry, Origin
from sb3_moe.growing.numbers import Leaf, Numbers
from sb3_moe.networks import Network, Networks
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.towers import Tower
from sb3_moe.vec_env.task_ids import TASK_KEY

# A feature: the key of the observation's part that it is of, and its number there.
Feature = tuple[str, int]
# The part where no more is known of features than how many there are.
WHOLE = ""
# What reads an LSTM's, or a linear layer's, input.
READS = ("weight_ih_l0", "weight")


class DenseMap:
    """A map from new networks to old ones, made layer by layer.

    :param new: the numbers of the new networks
    :param old: those of the old ones
    """

    def __init__(self, new: Numbers, old: Numbers) -> None:
        self.new, self.old = new, old
        self.entries: list[Entry] = []

    def copy(
        self, into: th.Tensor, places: th.Tensor, weight: float = 1.0, gate: float = 1.0
    ) -> None:
        """Let numbers be those of the old networks, ``weight`` times as large.

        :param gate: how many times larger their gradient is
        """
        self.entries.append(Entry(into, (Origin(places, weight, gate),)))

    def fill(self, into: th.Tensor, value: th.Tensor | float, *, adds: bool = False) -> None:
        """Let a number, or one for each place, stand there, or be added."""
        self.entries.append(Entry(into, value=value, adds=adds))

    def linear(
        self,
        new: Leaf,
        old: Leaf,
        *,
        columns: th.Tensor | None = None,
        rows: th.Tensor | None = None,
        share: th.Tensor | None = None,
        scale: float = 1.0,
        bias_scale: float = 1.0,
        gate: float = 1.0,
    ) -> None:
        """Copy a linear layer.

        :param columns: where each old input is found; None: where it was
        :param rows: the old units that are taken, which become the first; None: all
        :param share: the old inputs that are taken; all others count nothing; None: all
        :param scale: how many times larger the weights are
        :param bias_scale: how many times larger the bias is
        :param gate: how many times larger the gradient is
        :raises ValueError: if they don't fit
        """
        weight, source = new.places["weight"], old.places["weight"]
        if new.places.keys() != old.places.keys():
            raise ValueError(
                f"the new layer must have a bias just as the dense one: {sorted(new.places)}"
            )
        height, width = source.shape
        rows = th.arange(height) if rows is None else rows
        taken = th.arange(width) if share is None else share
        at = taken if columns is None else columns[taken]
        _check_room("expert_width", len(rows), weight.shape[0])
        _check_room("task_input", int(at.max()) + 1 if len(at) else 0, weight.shape[1])
        if columns is None and share is None and weight.shape[1] != width:
            raise _misfit(weight, source)
        own = weight[: len(rows)]
        if len(at) < weight.shape[1]:
            self.fill(own, 0.0)
        self.copy(own[:, at], source[rows][:, taken], scale, gate)
        if "bias" in new.places:
            bias = new.places["bias"][: len(rows)]
            self.copy(bias, old.places["bias"][rows], bias_scale, gate)

    def other(
        self,
        new: Leaf,
        old: Leaf,
        *,
        columns: th.Tensor | None = None,
        rows: th.Tensor | None = None,
        gate: float = 1.0,
    ) -> None:
        """Copy what is no linear layer: numbers for each unit, or for all alike.

        :raises ValueError: if they don't fit
        """
        is_conv = any(each.dim() > 1 for each in old.places.values())  # it reads no features
        for name, into in new.places.items():
            source = old.places[name]
            alike = source.numel() == into.numel() == 1  # of one unit, or for all alike
            by_unit = source.dim() == 1 and not alike and not is_conv
            if by_unit and rows is not None:
                self.copy(into[: len(rows)], source[rows], gate=gate)
            elif by_unit and columns is not None and len(source) == len(columns):
                self.copy(into[columns], source, gate=gate)
            elif into.shape == source.shape:
                self.copy(into, source, gate=gate)
            else:
                raise _misfit(into, source)

    def layer(
        self, new: Leaf, old: Leaf, *, columns: th.Tensor | None = None, gate: float = 1.0
    ) -> None:
        """Copy a layer of either sort.

        :raises ValueError: if they don't fit
        """
        if new.is_linear != old.is_linear or new.places.keys() != old.places.keys():
            raise ValueError(
                "`model` must have layers that can stand where the new one has its own, in their "
                f"order, got {old} for {new}"
            )
        (self.linear if new.is_linear else self.other)(new, old, columns=columns, gate=gate)

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

    def extractor(self, new: nn.Module, old: nn.Module) -> None:
        """Copy the encoder of an extractor, if the new one still has any."""
        ours, theirs = ([*each.parameters(), *each.buffers()] for each in (new, old))
        for mine, other in zip(ours, theirs, strict=True) if ours else ():
            self.copy(self.new.places(mine), self.old.places(other))

    def memory(self, new: nn.Module | None, old: nn.Module | None, at: th.Tensor | None) -> None:
        """Copy an LSTM or a linear layer between extractor and hidden layers, if there is one.

        :param at: where the new one finds each input of the old one; None: where it was
        """
        if new is None or old is None:
            return
        for (name, mine), theirs in zip(new.named_parameters(), old.parameters(), strict=True):
            leaf, source = (
                Leaf(True, {"weight": numbers.places(each)})
                for numbers, each in ((self.new, mine), (self.old, theirs))
            )
            if at is not None and name.split(".")[-1] in READS:
                self.linear(leaf, source, columns=at)
            else:
                self.copy(leaf.places["weight"], source.places["weight"])

    def loose(self, new: Networks, old: Networks) -> str | None:
        """Copy parameters that lie in no layer, such as ``log_std``.

        :return: the name of one that has another shape there: gSDE's noise for a latent of another
            width
        """
        misfit, theirs = None, old.loose()
        for name, own in new.loose().items():
            for mine, other in zip(own, theirs[name], strict=True):
                if mine.shape == other.shape:
                    self.copy(self.new.places(mine), self.old.places(other))
                else:
                    misfit = name
        return misfit


def _check_room(option: str, needed: int, room: int) -> None:
    if needed > room:
        raise ValueError(
            f"`{option}` must leave room for {needed} numbers of the dense layer, got {room}"
        )


def _misfit(new: th.Tensor, old: th.Tensor) -> ValueError:
    return ValueError(
        "`expert_width` must be None, or what the dense layers have, where whole rows of layers "
        f"are copied: a tensor has the shape {tuple(new.shape)}, and the dense one "
        f"{tuple(old.shape)}"
    )


# Layers in their order.


def parts_of(modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield plain modules and blocks of experts in the order in which they run."""
    for module in modules:
        if isinstance(module, Tower):
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


# Features.


def features_of(network: Network, policy: Any, tower: str) -> list[Feature]:
    """Return what the first layer of a network reads of observations.

    :param network: of the policy
    :param policy: dense, or with experts, which need not see the task id
    :param tower: whose options hold there
    """
    extractor, space = network.extractor, policy.observation_space
    sizes = {WHOLE: int(extractor.features_dim)}  # type: ignore[arg-type]  # SB3's
    if isinstance(extractor, TaskExtractor):
        tasks = extractor.num_tasks
        if extractor.image_keys or not isinstance(space, spaces.Dict):
            sizes = {WHOLE: extractor.features_dim - tasks}
        else:
            sizes = {key: get_flattened_obs_dim(space[key]) for key in extractor.flat_keys}
        hidden = isinstance(policy, MoEPolicy) and not policy.moe[tower].experts_see_task
        sizes[TASK_KEY] = 0 if hidden else tasks
    elif isinstance(extractor, CombinedExtractor) and all(
        isinstance(each, nn.Flatten) for each in extractor.extractors.values()
    ):
        sizes = {key: get_flattened_obs_dim(space[key]) for key in extractor.extractors}
    return [(key, i) for key, size in sizes.items() for i in range(size)]


def columns_of(old: list[Feature], new: list[Feature]) -> list[int]:
    """Return the new column of each old one; a task id that joins has columns of its own.

    :raises ValueError: if an old feature is missing in the new ones
    """
    keys, others = ({key for key, _ in each} for each in (old, new))
    if keys == {WHOLE} and TASK_KEY in others and len(old) == len(new):
        return list(range(len(new)))  # the one-hot was there, at the end
    rests = [each - {TASK_KEY} for each in (keys, others)]
    if any(WHOLE in rest for rest in rests) or all(len(rest) == 1 for rest in rests):
        old, new = _as_whole(old), _as_whole(new)
    at = {feature: i for i, feature in enumerate(new)}
    for key in dict.fromkeys(key for key, _ in old):
        wanted, got = (sum(key == each for each, _ in side) for side in (old, new))
        if wanted != got:
            raise ValueError(
                f"`task_input` must let the new layers see all that the dense ones see: "
                f"{wanted} features of {key or 'the observation'!r}, got {got}"
            )
    return [at[feature] for feature in old]


def _as_whole(features: list[Feature]) -> list[Feature]:
    """Name all but the task id as one."""
    numbers = iter(range(len(features)))
    return [each if each[0] == TASK_KEY else (WHOLE, next(numbers)) for each in features]
