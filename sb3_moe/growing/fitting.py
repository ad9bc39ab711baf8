"""Which rows and columns of a dense layer go where in a new one."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th

from sb3_moe.growing.leaves import Held, Leaf
from sb3_moe.growing.links import Link


@dataclass(frozen=True)
class Fit:
    """How a dense layer's numbers stand in a new layer; None: all of them, where they were.

    :param rows: the old units that are taken; they become the first, those behind start anew
    :param columns: where each old input is found
    :param share: the old inputs that are taken; all others count nothing
    """

    rows: th.Tensor | None = None
    columns: th.Tensor | None = None
    share: th.Tensor | None = None

    def linear(
        self,
        new: Leaf,
        old: Leaf,
        *,
        scale: float = 1.0,
        bias_scale: float = 1.0,
        slope: float = 1.0,
        offset: int = 0,
    ) -> list[Link]:
        """Link a linear layer.

        :param new: the new layer
        :param old: the dense one
        :param scale: how many times larger the weights are
        :param bias_scale: how many times larger the bias is
        :param slope: how many times larger the gradient is
        :param offset: the first of the new rows
        :raises ValueError: if they don't fit
        """
        weight, source = new.tensors["weight"], old.tensors["weight"]
        height, width = source.value.shape
        rows = _or_all(self.rows, height)
        at = offset + th.arange(len(rows))
        share = _or_all(self.share, width)
        columns = _or_all(self.columns, width)[share]
        _check(at, weight, 0)
        _check(columns, weight, 1)
        if self.columns is None and self.share is None and weight.value.shape[1] != width:
            raise _misfit(weight, source)
        links = []
        if len(columns) < weight.value.shape[1]:
            links.append(Link(weight, at=at))
        links.append(
            Link(
                weight,
                source.stored,
                at=(at[:, None], columns),
                take=(rows[:, None], share),
                scale=scale,
                slope=slope,
            )
        )
        if ("bias" in new.tensors) != ("bias" in old.tensors):
            raise ValueError(
                f"the new layer must have a bias just as the dense one: {sorted(new.tensors)}"
            )
        if "bias" in new.tensors:
            bias = Link(
                new.tensors["bias"],
                old.tensors["bias"].stored,
                at=at,
                take=rows,
                scale=bias_scale,
                slope=slope,
            )
            links.append(bias)
        return links

    def other(self, new: Leaf, old: Leaf, *, slope: float = 1.0) -> list[Link]:
        """Link what is no linear layer: numbers for each unit, or for all alike.

        :raises ValueError: if they don't fit
        """
        index = self.columns if self.rows is None else self.rows
        if any(held.value.dim() > 1 for held in old.tensors.values()):
            index = None  # of a convolution, which reads no features
        links = []
        for name, held in new.tensors.items():
            source = old.tensors[name]
            link = Link(held, source.stored, slope=slope)
            one = source.value.numel() == held.value.numel() == 1  # of one unit, or for all alike
            per_unit = source.value.dim() == 1 and not one
            if per_unit and index is not None and len(source.value) == len(index):
                every = th.arange(len(index))
                at, take = (index, every) if self.rows is None else (every, index)
                link = Link(held, source.stored, at=at, take=take, slope=slope)
            elif held.value.shape != source.value.shape:
                raise _misfit(held, source)
            links.append(link)
        return links

    def any(self, new: Leaf, old: Leaf, *, slope: float = 1.0) -> list[Link]:
        """Link a layer of either sort, as it is."""
        if new.is_linear != old.is_linear or new.tensors.keys() != old.tensors.keys():
            raise ValueError(
                "`model` must have layers that can stand where the new one has its own, in their "
                f"order, got {old} for {new}"
            )
        if new.is_linear:
            return self.linear(new, old, slope=slope)
        return self.other(new, old, slope=slope)


def _or_all(index: th.Tensor | None, length: int) -> th.Tensor:
    return th.arange(length) if index is None else index


def _check(index: th.Tensor, held: Held, axis: int) -> None:
    room = held.value.shape[axis]
    if len(index) and int(index.max()) >= room:
        name = "expert_width" if axis == 0 else "task_input"
        raise ValueError(
            f"`{name}` must leave room for {int(index.max()) + 1} numbers of the dense layer, got "
            f"{room}"
        )


def _misfit(new: Held, old: Held) -> ValueError:
    return ValueError(
        "`expert_width` must be None, or what the dense layers have, where whole rows of layers "
        f"are copied: a tensor has the shape {tuple(new.value.shape)}, and the dense one "
        f"{tuple(old.value.shape)}"
    )
