"""Where the numbers of a layer with more experts, or fewer, come from.

Shapes: E experts before, X after, O outputs and I inputs of their last layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch as th

from sb3_moe.growing.copying import Entry, Origin
from sb3_moe.growing.numbers import Numbers
from sb3_moe.growing.routers import Heir
from sb3_moe.layers import MoELayer, StackedNetwork


def expert_map(
    new: MoELayer,
    old: MoELayer,
    numbers: tuple[Numbers, Numbers],
    heirs: Sequence[Heir],
    scales: Sequence[float],
) -> Iterator[Entry]:
    """Yield where all numbers of a layer come from.

    :param new: with X experts
    :param old: with E
    :param numbers: of the new policy, and of the old one
    :param heirs: what each of the X comes from
    :param scales: how many times larger the last weights of each will be made
    :raises ValueError: if the router has tensors of which that is not known
    """
    ours, theirs = numbers
    leaves = [theirs.expert(old.experts, k) for k in range(old.num_experts)]
    for x, heir in enumerate(heirs):
        own = ours.expert(new.experts, x)
        for i, leaf in enumerate(own):
            # What ends in another kind of layer is scaled in a way of its own.
            is_last = i + 1 == len(own) and isinstance(new.experts, StackedNetwork)
            scale = scales[x] if is_last else 1.0
            for name, into in leaf.places.items():
                places = {k: leaves[k][i].places[name] for k in heir.weights}
                yield _entry(into, heir, places, scale)
    yield from _of_router(new, old, numbers, heirs)


def _entry(
    into: th.Tensor, heir: Heir, places: Mapping[int, th.Tensor], scale: float = 1.0
) -> Entry:
    origins = [
        Origin(places[k], weight, heir.gates.get(k, 0.0) / scale)
        for k, weight in heir.weights.items()
        if k in places
    ]
    joins = heir.is_new or not heir.stays
    return Entry(into, origins, joins=joins, learns_anew=heir.is_new, scale=scale)


def _of_router(
    new: MoELayer, old: MoELayer, numbers: tuple[Numbers, Numbers], heirs: Sequence[Heir]
) -> Iterator[Entry]:
    axes, before = new.expert_axes(), _own_tensors(old)
    everyone = range(old.num_experts)
    mean = dict.fromkeys(everyone, 1.0 / old.num_experts)
    for name, tensor in _own_tensors(new).items():
        source = before.get(name)
        if name in axes:
            into = _by_expert(numbers[0].places(tensor), axes[name], new.num_experts)
            known = {}
            if source is not None:
                places = _by_expert(numbers[1].places(source), axes[name], old.num_experts)
                known = dict(zip(everyone, places, strict=True))
            for own, heir in zip(into, heirs, strict=True):
                entry = _entry(own, heir, known)
                if heir.is_new:
                    origins = [Origin(each, mean[k]) for k, each in known.items()]
                    entry = entry._replace(origins=origins)
                yield entry
        elif source is None or source.shape != tensor.shape:
            raise ValueError(
                f"`router`={new.name!r} must name in `expert_axes` the tensors that hold something "
                f"for each expert, got {name!r}, {_shape(source)} with {old.num_experts} experts "
                f"and {_shape(tensor)} with {new.num_experts}"
            )
        else:
            yield Entry(numbers[0].places(tensor), (Origin(numbers[1].places(source)),))


def _own_tensors(layer: MoELayer) -> dict[str, th.Tensor]:
    """Return a layer's parameters and buffers besides those of its experts."""
    named = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: tensor for name, tensor in named if not name.startswith("experts.")}


def _by_expert(places: th.Tensor, axis: int, num_experts: int) -> Sequence[th.Tensor]:
    return places.unflatten(axis, (num_experts, -1)).unbind(axis)


def _shape(tensor: th.Tensor | None) -> object:
    return None if tensor is None else tuple(tensor.shape)


def moves_apart(
    new: MoELayer,
    old: MoELayer,
    numbers: tuple[Numbers, Numbers],
    heirs: Sequence[Heir],
    perturb: float,
    frozen: Collection[int],
) -> Iterator[Entry]:
    """Move the last weights of copies, and of their originals, so that it cancels under the gates.

    :param perturb: the size of a move, as a share of that of the weights
    :param frozen: old experts that don't move
    :raises ValueError: if the experts' last layer is not known
    """
    ours, theirs = numbers
    for k in {k for heir in heirs if not heir.stays for k in heir.weights}:
        movers = {
            x: heir.gates[k]
            for x, heir in enumerate(heirs)
            if set(heir.weights) == {k} and not (heir.stays and k in frozen)
        }
        if len(movers) < 2 or not perturb:
            continue
        last = theirs.expert(old.experts, k)[-1]
        if not last.is_linear:
            raise ValueError(
                "`perturb` must be 0 with experts whose last layer isn't known to be linear, or "
                f"they must end in an nn.Linear, got {last}"
            )
        weight_OI = theirs.row(lambda tensor: tensor)[last.places["weight"]]
        size = perturb * weight_OI.square().mean().sqrt()
        drawn = {x: th.randn(weight_OI.shape).double() for x in movers}
        mean_OI = sum(gate * drawn[x] for x, gate in movers.items()) / sum(movers.values())
        for x, move_OI in drawn.items():
            into = ours.expert(new.experts, x)[-1].places["weight"]
            yield Entry(into, value=(move_OI - mean_OI) * size, adds=True)
