"""One expert that does what a dense layer, or several, did: all of it, or a share.

Shapes: E experts, H units of the dense layer, W of an expert's hidden one, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch as th

from sb3_moe.growing.fitting import Fit
from sb3_moe.growing.leaves import Leaf
from sb3_moe.growing.links import Link


@dataclass(frozen=True)
class Role:
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


def as_copy(total: float, num_experts: int) -> Role:
    """Return the role of an expert that does all that the dense layers did.

    :param total: what the gates sum to
    :param num_experts: E
    """
    return Role(1.0 / total, 1.0 / total, total / num_experts, 1.0 / num_experts)


def as_share(share: th.Tensor, num_experts: int) -> Role:
    """Return the role of an expert that has some of the units to itself, under the gate 1/E."""
    return Role(float(num_experts), 1.0, 1.0 / num_experts, 1.0 / num_experts, share)


def holds_more(expert: Sequence[Leaf], dense: Sequence[Leaf]) -> bool:
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


def link_copy(expert: Sequence[Leaf], dense: Sequence[Leaf], role: Role, fit: Fit) -> list[Link]:
    """Link an expert, layer by layer; of its last layer the units of its share alone count.

    :param expert: its leaves
    :param dense: as many, whose last may hold several layers side by side
    :param role: how it takes part
    :param fit: of the first layer
    """
    links: list[Link] = []
    for new, old in zip(expert[:-1], dense[:-1], strict=True):
        links += fit.any(new, old, slope=role.before)
        fit = Fit() if new.is_linear else fit
    last, fit, offset = expert[-1], replace(fit, share=role.share), 0
    for old in (dense[-1], *dense[-1].beside):
        links += fit.linear(
            last,
            old,
            scale=role.scale,
            bias_scale=role.bias_scale,
            slope=role.gate,
            offset=offset,
        )
        offset += old.tensors["weight"].value.shape[0]
    return links


def link_and_hand_on(
    expert: Sequence[Leaf], dense: Sequence[Leaf], role: Role, fit: Fit
) -> list[Link]:
    """Link an expert whose first layers are the dense ones, and whose last hands on what it gets.

    :param expert: its leaves
    :param dense: one fewer
    :param role: how it takes part
    :param fit: of the first layer
    """
    *first, last = expert
    units = dense[0].tensors["weight"].value.shape[0]
    rows = th.arange(units) if role.share is None else role.share
    # The units of a share meet the gate 1/E and weights that are E times larger.
    slope = role.before if role.share is None else 1.0
    fit = replace(fit, rows=rows)
    links: list[Link] = []
    for new, old in zip(first, dense, strict=True):
        link = fit.linear if new.is_linear else fit.other
        links += link(new, old, slope=slope)
    weight_OW = last.tensors["weight"]
    links.append(Link(weight_OW))
    links.append(Link(weight_OW, at=(rows, th.arange(len(rows))), value=role.scale))
    return [*links, *(Link(held) for name, held in last.tensors.items() if name == "bias")]


def link_apart(lasts: Sequence[Leaf], size: float, scale: float) -> list[Link]:
    """Move experts under alike gates apart, so that the moves cancel in the sum.

    :param lasts: the last layer of each
    :param size: of a move, as a share of ``scale``
    :param scale: the size of the weights there
    """
    shape = lasts[0].tensors["weight"].value.shape
    moves_EOI = th.randn(len(lasts), *shape)
    moves_EOI = (moves_EOI - moves_EOI.mean(0)) * (size * scale)
    return [
        Link(leaf.tensors["weight"], value=move.to(leaf.tensors["weight"].stored.device), adds=True)
        for leaf, move in zip(lasts, moves_EOI, strict=True)
    ]
