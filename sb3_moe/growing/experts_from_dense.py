"""Experts that begin as the dense layers they stand for: copies of them, or shares of their units.

Shapes: E experts, B rows, H units of the dense layer, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch as th
from torch import nn

from sb3_moe.growing.dense_map import DenseMap, columns_of, dense_leaves, features_of, parts_of
from sb3_moe.growing.numbers import Leaf
from sb3_moe.growing.routers import take_copies, take_shares
from sb3_moe.layers import MoELayer
from sb3_moe.networks import Network, kind_of
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.placements import Placement
from sb3_moe.policies.towers import MoEBlock
from sb3_moe.vec_env.task_ids import TASK_KEY

# Divides the inputs of a dense layer, which are the units before it, over so many experts.
Divide = Callable[[Leaf, int], list[th.Tensor]]


class Role(NamedTuple):
    """How one of E experts takes part.

    :param scale: how many times larger its last weights are than the dense ones
    :param bias_scale: how many times larger its last bias is
    :param gate: what share of the gradient reaches its last layer
    :param before: what share of the gradient reaches the layers before
    :param share: the units that are its own; None: all
    """

    scale: float
    bias_scale: float
    gate: float
    before: float
    share: th.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ExpertsFromDense:
    """Says where the numbers of a network with experts come from.

    :param map: what it is written into
    :param place: where the network's experts sit
    :param divide: divides units over experts; None: each expert gets all
    :param perturb: how far experts under constant gates start apart, in their last layer, as a
        share of the size of its weights
    """

    map: DenseMap
    place: Placement
    divide: Divide | None = None
    perturb: float = 0.0

    def network(self, new: Network, old: Network, at: th.Tensor | None) -> None:
        """Map hidden layers and heads.

        :param at: where the first layer finds each of its old inputs; None: where they were
        :raises ValueError: if they don't fit together
        """
        hidden, heads = dense_leaves(self.map.old, old)
        linears = sum(leaf.is_linear for leaf in hidden)
        depth = linears if heads else linears - 1
        if _encodes(new):
            convs = old.extractor.get_submodule("convs").children()
            hidden = [*self.map.old.leaves(convs), *hidden]
        if self.place.whole:
            leaves = [*hidden, *_side_by_side(heads)]
            self._chain([new.hidden, *new.heads], leaves, None, depth, at)
            return
        self._chain([new.hidden], hidden, heads[0] if heads else None, depth, at)
        for module, leaf in zip(new.heads, heads, strict=True):
            self._chain([module], [leaf], None, depth, None if linears else at)

    def _chain(
        self,
        new: Sequence[nn.Module],
        old: Sequence[Leaf],
        behind: Leaf | None,
        depth: int,
        at: th.Tensor | None,
    ) -> None:
        """Map modules that run one behind the other.

        :param behind: what reads the last of the old layers, if anything does
        :param depth: how many hidden layers the whole network has
        """
        rest = list(old)
        for part in parts_of(new):
            if isinstance(part, MoEBlock):
                count = self._span(part.layer, rest, depth)
                reader = next((leaf for leaf in rest[count:] if leaf.is_linear), behind)
                self._experts(part.layer, rest[:count], reader, at)
                rest, at = rest[count:], None
                continue
            for leaf in self.map.new.leaves([part]):
                self.map.layer(leaf, rest.pop(0), columns=at)
                at = None if leaf.is_linear else at

    def _span(self, layer: MoELayer, rest: Sequence[Leaf], depth: int) -> int:
        """Return how many of the dense leaves a layer of experts stands for."""
        linears = [i for i, leaf in enumerate(rest) if leaf.is_linear]
        if self.place.hidden == "one" and len(linears) > 1:
            return linears[depth if self.place.whole else depth - 1] + 1
        inside = self.map.new.expert(layer.experts, 0)
        if not _holds_more(inside, rest[: linears[0] + 1]):
            return linears[0] + 1
        # The activation is in the experts too, and may hold numbers.
        return linears[0] + sum(not leaf.is_linear for leaf in inside) + 1

    def _experts(
        self, layer: MoELayer, old: Sequence[Leaf], reader: Leaf | None, at: th.Tensor | None
    ) -> None:
        """Map every expert of a layer to the dense leaves that it stands for."""
        number = layer.num_experts
        experts = [self.map.new.expert(layer.experts, k) for k in range(number)]
        more = _holds_more(experts[0], old)
        if self.divide is None:
            total = take_copies(layer)
            roles = [Role(1 / total, 1 / total, total / number, 1 / number)] * number
        else:
            take_shares(layer)
            divided = reader if more else old[-1]
            assert divided is not None, "behind hidden layers there is a head"
            shares = self.divide(divided, number)
            roles = [Role(float(number), 1.0, 1 / number, 1 / number, share) for share in shares]
        for expert, role in zip(experts, roles, strict=True):
            (self._hands_on if more else self._copies)(expert, old, role, at)
        if self.divide is None and layer.sees == "nothing" and number > 1:
            self._move_apart(layer, [expert[-1].places["weight"] for expert in experts], old, more)

    def _copies(
        self, expert: Sequence[Leaf], dense: Sequence[Leaf], role: Role, at: th.Tensor | None
    ) -> None:
        """Map an expert layer by layer; of its last layer the units of its share alone count."""
        for new, old in zip(expert[:-1], dense[:-1], strict=True):
            self.map.layer(new, old, columns=at, gate=role.before)
            at = None if new.is_linear else at
        self.map.linear(
            expert[-1],
            dense[-1],
            columns=at,
            share=role.share,
            scale=role.scale,
            bias_scale=role.bias_scale,
            gate=role.gate,
        )

    def _hands_on(
        self, expert: Sequence[Leaf], dense: Sequence[Leaf], role: Role, at: th.Tensor | None
    ) -> None:
        """Map an expert whose first layers are the dense ones, and whose last hands on."""
        *first, last = expert
        units = th.arange(len(dense[0].places["weight"]))
        rows = units if role.share is None else role.share
        # The units of a share meet the gate 1/E and weights that are E times larger.
        gate = role.before if role.share is None else 1.0
        for new, old in zip(first, dense, strict=True):
            put = self.map.linear if new.is_linear else self.map.other
            put(new, old, columns=at, rows=rows, gate=gate)
        weight_OI = last.places["weight"]
        for places in last.places.values():
            self.map.fill(places, 0.0)
        self.map.fill(weight_OI[rows, th.arange(len(rows))], role.scale)

    def _move_apart(
        self, layer: MoELayer, lasts: Sequence[th.Tensor], old: Sequence[Leaf], more: bool
    ) -> None:
        """Move experts under alike gates apart, so that the moves cancel in the sum."""
        if not self.perturb:
            raise ValueError(
                "`perturb` must be larger than 0 where experts start as copies under gates that "
                f"are the same for every token, `router`={layer.name!r}: they would stay copies, "
                f"got {self.perturb}"
            )
        shape = lasts[0].shape
        size = shape[1] ** -0.5  # an identity has one 1 in each row
        if not more:
            weights = self.map.old.row(lambda tensor: tensor)[old[-1].places["weight"]]
            size = weights.square().mean().sqrt().item()
        moves_EOI = th.randn(len(lasts), *shape)
        moves_EOI = (moves_EOI - moves_EOI.mean(0)) * (self.perturb * size)
        for places, move in zip(lasts, moves_EOI, strict=True):
            self.map.fill(places, move.double(), adds=True)


def _side_by_side(heads: Sequence[Leaf]) -> list[Leaf]:
    """Return heads that read the same as one layer."""
    names = heads[0].places if heads else ()
    found = {name: th.cat([head.places[name] for head in heads]) for name in names}
    return [Leaf(True, found)] if heads else []


def _holds_more(expert: Sequence[Leaf], dense: Sequence[Leaf]) -> bool:
    """Say whether an expert has one linear layer more than the dense layers it stands for.

    :raises ValueError: if it has still more, or fewer
    """
    theirs, ours = (sum(leaf.is_linear for leaf in each) for each in (expert, dense))
    if theirs not in (ours, ours + 1):
        raise ValueError(
            f"`expert` must have as many linear layers as the dense layers it stands for, {ours}, "
            f"or one more, got {theirs}"
        )
    return theirs > ours


# Columns.


def _encodes(network: Network) -> bool:
    """Say whether a network holds the encoder of its images."""
    extractor = network.extractor
    return isinstance(extractor, TaskExtractor) and extractor.image_shape is not None


def columns_in_new(
    new: MoEPolicy, mine: Network, old: nn.Module, other: Network, map_: DenseMap
) -> th.Tensor | None:
    """Return where the first layer of a network finds each input of the dense one.

    :param new: with experts
    :param mine: a network of it
    :param old: the dense policy
    :param other: its network
    :param map_: knows the dense layers
    :return: None: where it was
    """
    tower = kind_of(mine.tower)
    ours, theirs = features_of(mine, new, tower), features_of(other, old, tower)
    if _encodes(mine):
        tasks = [each for each in ours if each[0] == TASK_KEY]
        rest = sum(key != TASK_KEY for key, _ in theirs)
        ours = [*(("", i) for i in range(rest)), *tasks]
    found = columns_of(theirs, ours)
    if other.memory is None:  # critics see actions behind the features
        hidden, heads = dense_leaves(map_.old, other)
        linear = next(leaf for leaf in (*hidden, *heads) if leaf.is_linear)
        actions = linear.places["weight"].shape[1] - len(found)
        found += range(len(ours), len(ours) + actions)
    if found == list(range(len(found))) and len(ours) == len(theirs):
        return None
    return th.tensor(found)


# Units.


def evenly(units: int, shares: int) -> list[th.Tensor]:
    """Divide units over shares in their order."""
    return [th.from_numpy(part) for part in np.array_split(np.arange(units), shares)]


def by_firing(values_BH: th.Tensor, shares: int) -> list[th.Tensor]:
    """Divide units over shares so that those which fire together come together.

    The most active unit that is left begins a share, and those which correlate with it most join.

    :param values_BH: what each unit did on a probe batch
    :param shares: over how many they are divided
    """
    centred_BH = values_BH - values_BH.mean(0)
    normed_BH = centred_BH / centred_BH.norm(dim=0).clamp_min(1e-12)
    alike_HH = normed_BH.T @ normed_BH
    activity_H = values_BH.abs().mean(0)
    left = th.ones(len(activity_H), dtype=th.bool)
    found = []
    for part in evenly(len(activity_H), shares):
        if len(part):
            seed = activity_H.masked_fill(~left, -1.0).argmax()
            likeness_H = alike_HH[seed].masked_fill(~left, -2.0)
            likeness_H[seed] = 2.0
            part = likeness_H.topk(len(part)).indices.sort().values
            left[part] = False
        found.append(part)
    return found
