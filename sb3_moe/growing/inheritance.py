"""What each tensor of a layer with other experts has from those of the old one.

Shapes: E experts before, X after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch as th

from sb3_moe.growing.heirs import Heir
from sb3_moe.growing.leaves import Held, Leaf, expert_leaves
from sb3_moe.layers import MoELayer


@dataclass(frozen=True)
class Origin:
    """A part of an old tensor that a new one has something of.

    :param held: the part
    :param weight: how much of it
    :param gate: how much of its gradient
    """

    held: Held
    weight: float = 1.0
    gate: float = 1.0


@dataclass(frozen=True)
class Inherited:
    """A part of a new tensor, and where it comes from.

    :param into: the part
    :param origins: of its numbers; none: it starts anew
    :param heir: what the expert comes from that has it; None: it is no expert's
    :param scale: of the numbers, once they are written: it stands for the expert's gate
    """

    into: Held
    origins: Sequence[Origin]
    heir: Heir | None = None
    scale: float = 1.0

    @property
    def is_new(self) -> bool:
        """Whether its running averages start anew."""
        return not self.origins or (self.heir is not None and self.heir.is_new)

    @th.no_grad()
    def write(self) -> None:
        """Write the numbers: the same bit for bit where they come from one part alone."""
        if not self.origins:
            return
        first, *others = self.origins
        value = first.held.value
        if others and value.is_floating_point():
            value = value * first.weight
            for origin in others:
                value = value + origin.held.value * origin.weight
        self.into.value.copy_(value)


def inherited(new: MoELayer, old: MoELayer, heirs: Sequence[Heir]) -> list[Inherited]:
    """Return where all numbers of a layer come from.

    :param new: with X experts
    :param old: with E
    :param heirs: what each of the X comes from
    :raises ValueError: if the router has tensors of which that is not known
    """
    found = [*_of_experts(new, old, heirs), *_of_router(new, old, heirs)]
    return [part for part in found if part.into.stored.numel()]


def _of_experts(new: MoELayer, old: MoELayer, heirs: Sequence[Heir]) -> Iterator[Inherited]:
    leaves = {k: expert_leaves(old.experts, k) for k in range(old.num_experts)}
    for x, heir in enumerate(heirs):
        for i, leaf in enumerate(expert_leaves(new.experts, x)):
            for name, into in leaf.tensors.items():
                yield Inherited(into, _origins(heir, leaves, i, name), heir)


def _origins(heir: Heir, leaves: Mapping[int, list[Leaf]], i: int, name: str) -> list[Origin]:
    return [
        Origin(leaves[k][i].tensors[name], weight, heir.gates.get(k, 0.0))
        for k, weight in heir.weights.items()
    ]


def _of_router(new: MoELayer, old: MoELayer, heirs: Sequence[Heir]) -> Iterator[Inherited]:
    axes, before = new.by_expert(), _own_tensors(old)
    mean = Heir(dict.fromkeys(range(old.num_experts), 1.0 / old.num_experts))
    for name, tensor in _own_tensors(new).items():
        source = before.get(name)
        if name in axes:
            for x, heir in enumerate(heirs):
                into = Held(tensor, partial(_of_expert, axes[name], new.num_experts, x))
                from_old = mean if heir.is_new else heir
                origins = [
                    Origin(
                        Held(source, partial(_of_expert, axes[name], old.num_experts, k)),
                        weight,
                        heir.gates.get(k, 0.0),
                    )
                    for k, weight in from_old.weights.items()
                    if source is not None
                ]
                yield Inherited(into, origins, heir)
        elif source is None or source.shape != tensor.shape:
            raise ValueError(
                f"`router`={new.name!r} must name in `by_expert` the tensors that hold something "
                f"for each expert, got {name!r}, {_shape(source)} with {old.num_experts} experts "
                f"and {_shape(tensor)} with {new.num_experts}"
            )
        else:
            yield Inherited(Held(tensor), [Origin(Held(source))])


def _own_tensors(layer: MoELayer) -> dict[str, th.Tensor]:
    """Return a layer's parameters and buffers besides those of its experts."""
    named = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: tensor for name, tensor in named if not name.startswith("experts.")}


def _of_expert(axis: int, num_experts: int, k: int, tensor: th.Tensor) -> th.Tensor:
    return tensor.unflatten(axis, (num_experts, -1)).select(axis, k)


def _shape(tensor: th.Tensor | None) -> object:
    return None if tensor is None else tuple(tensor.shape)
