"""How copies of an expert start apart, so that together they do what the one did.

Shapes: X experts after, O outputs and I inputs of their last layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch as th

from sb3_moe.growing.heirs import Heir
from sb3_moe.growing.leaves import Held, expert_leaves
from sb3_moe.layers import Experts, MoELayer


def moves_apart(
    new: MoELayer, old: MoELayer, heirs: Sequence[Heir], perturb: float
) -> dict[int, th.Tensor]:
    """Draw moves of the last weights of copies, (O, I) each, that cancel under their gates.

    :param new: with X experts, whose weights are written
    :param old: the layer before; its frozen experts don't move
    :param heirs: what each of the X comes from
    :param perturb: the size of a move, as a share of that of the weights
    :raises ValueError: if the experts' last layer is not known
    """
    found: dict[int, th.Tensor] = {}
    for k in {k for heir in heirs if not heir.stays for k in heir.weights}:
        movers = {
            x: heir.gates[k]
            for x, heir in enumerate(heirs)
            if set(heir.weights) == {k} and not (heir.stays and k in old.frozen)
        }
        if len(movers) < 2 or not perturb:
            continue
        weight = _last(new.experts, min(movers)).value
        size = perturb * weight.detach().square().mean().sqrt()
        drawn = {x: th.randn(weight.shape).to(weight) for x in movers}
        mean = sum(gate * drawn[x] for x, gate in movers.items()) / sum(movers.values())
        found |= {x: (move - mean) * size for x, move in drawn.items()}
    return found


@th.no_grad()
def move(experts: Experts, moves: dict[int, th.Tensor]) -> None:
    """Add to the last weights of some experts.

    :param experts: any
    :param moves: by their numbers, of :func:`moves_apart`
    """
    for x, each in moves.items():
        _last(experts, x).value.add_(each)


def _last(experts: Experts, x: int) -> Held:
    leaf = expert_leaves(experts, x)[-1]
    if not leaf.is_linear:
        raise ValueError(
            "`perturb` must be 0 with experts whose last layer isn't known to be linear, or they "
            f"must end in an nn.Linear, got {leaf}"
        )
    return leaf.tensors["weight"]
