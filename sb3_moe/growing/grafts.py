"""From one dense network to one with experts: which number goes where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch as th
from torch import nn

from sb3_moe.growing.experts import (
    as_copy,
    as_share,
    holds_more,
    link_and_hand_on,
    link_apart,
    link_copy,
)
from sb3_moe.growing.fitting import Fit
from sb3_moe.growing.leaves import Leaf, expert_leaves, plain_leaves
from sb3_moe.growing.links import Link
from sb3_moe.layers import MoELayer
from sb3_moe.policies.placements import Placement
from sb3_moe.policies.towers import MoEBlock, Tower

# Divides what a dense layer reads over so many experts.
Divide = Callable[[Leaf, int], list[th.Tensor]]


@dataclass(kw_only=True)
class Graft:
    """Puts dense networks where a tower has experts.

    :param place: where the tower's experts sit
    :param divide: divides units over experts; None: each expert gets all
    :param perturb: how far experts under constant gates start apart, in their last layer, as a
        share of the size of its weights
    """

    place: Placement
    divide: Divide | None = None
    perturb: float = 0.0
    links: list[Link] = field(default_factory=list)

    def network(
        self,
        new: Sequence[nn.Module],
        old: Sequence[Leaf],
        *,
        behind: Leaf | None,
        depth: int,
        columns: th.Tensor | None,
    ) -> None:
        """Link the parts of a new network, in the order in which they run.

        :param new: its modules, one behind the other
        :param old: what holds numbers in the dense one
        :param behind: what reads the last of those, if anything does
        :param depth: how many hidden layers the whole network has
        :param columns: where the first layer finds each of its old inputs; None: where they were
        :raises ValueError: if they don't fit together
        """
        rest, fit = list(old), Fit(columns=columns)
        for part in parts_of(new):
            if isinstance(part, MoEBlock):
                count = self._span(part.layer, rest, depth)
                reader = next((leaf for leaf in rest[count:] if leaf.is_linear), behind)
                self._experts(part.layer, rest[:count], reader, fit)
                rest, fit = rest[count:], Fit()
                continue
            for leaf in plain_leaves([part]):
                self.links += fit.any(leaf, rest.pop(0))
                fit = Fit() if leaf.is_linear else fit

    def _span(self, layer: MoELayer, rest: Sequence[Leaf], depth: int) -> int:
        """Return how many of the dense leaves a layer of experts stands for."""
        linears = [i for i, leaf in enumerate(rest) if leaf.is_linear]
        if self.place.hidden == "one" and len(linears) > 1:
            return linears[depth if self.place.whole else depth - 1] + 1
        inside = expert_leaves(layer.experts, 0)
        if not holds_more(inside, rest[: linears[0] + 1]):
            return linears[0] + 1
        # The activation is in the experts too, and may hold numbers.
        return linears[0] + sum(not leaf.is_linear for leaf in inside) + 1

    def _experts(self, layer: MoELayer, old: Sequence[Leaf], reader: Leaf | None, fit: Fit) -> None:
        """Link every expert of a layer with the dense leaves that it stands for."""
        number = layer.num_experts
        experts = [expert_leaves(layer.experts, k) for k in range(number)]
        more = holds_more(experts[0], old)
        if self.divide is None:
            roles = [as_copy(layer.take_copies(), number)] * number
        else:
            layer.take_shares()
            divided = reader if more else old[-1]
            assert divided is not None, "behind hidden layers there is a head"
            roles = [as_share(share, number) for share in self.divide(divided, number)]
        link = link_and_hand_on if more else link_copy
        for expert, role in zip(experts, roles, strict=True):
            self.links += link(expert, old, role, fit)
        if self.divide is None and layer.blind and number > 1:
            self._move_apart(layer, [expert[-1] for expert in experts], old, more)

    def _move_apart(
        self, layer: MoELayer, lasts: Sequence[Leaf], old: Sequence[Leaf], more: bool
    ) -> None:
        if not self.perturb:
            raise ValueError(
                "`perturb` must be larger than 0 where experts start as copies under gates that "
                f"are the same for every token, `router`={layer.name!r}: they would stay copies, "
                f"got {self.perturb}"
            )
        weight = old[-1].tensors["weight"].value
        width = lasts[0].tensors["weight"].value.shape[1]
        # An identity has one 1 in each row.
        size = width**-0.5 if more else weight.square().mean().sqrt().item()
        self.links += link_apart(lasts, self.perturb, size)


def parts_of(modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield plain modules and blocks of experts in the order in which they run."""
    for module in modules:
        if isinstance(module, Tower):
            encoder = [] if module.encoder is None else [module.encoder]
            yield from parts_of([*encoder, *module.norms, *module.blocks])
        elif isinstance(module, nn.Sequential):
            yield from parts_of(list(module))
        else:
            yield module
