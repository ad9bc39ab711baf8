"""Tensors that experts hold together, and which of the experts move in a step.

Shapes: E experts of one layer, n of them together in some tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_moe.layers.shares import Share
from sb3_moe.optimizers.own_steps import STEPS


class Part(NamedTuple):
    """Tensors that the same n experts hold.

    :param tensors: theirs
    :param first: number of the first of these experts; the others follow it
    :param num_experts: n
    """

    tensors: list[nn.Parameter]
    first: int
    num_experts: int

    def holds(self, k: int) -> bool:
        """Say whether one of the experts has that number."""
        return self.first <= k < self.first + self.num_experts

    def with_gradient(self) -> Part:
        """Leave out what torch does not step."""
        return self._replace(tensors=[each for each in self.tensors if each.grad is not None])

    def peaks(self) -> th.Tensor:
        """Return the largest gradient of each expert, (n,)."""
        grads = [each.grad for each in self.tensors if each.grad is not None]
        sizes = [each.reshape(self.num_experts, -1) for each in th._foreach_abs(grads)]
        return th.stack([each.amax(1) for each in sizes]).amax(0)

    def spread(self, factors: th.Tensor) -> list[tuple[th.Tensor, ...]]:
        """Spread numbers for each expert, (f, n), over every tensor: f of its axes for each."""
        by_shape: dict[tuple[int, int], tuple[th.Tensor, ...]] = {}
        found = []
        for each in self.tensors:
            rows = each.shape[0] // self.num_experts if each.dim() else 1
            shape = (1 if self.num_experts == 1 else rows, each.dim())
            if shape not in by_shape:
                wide = factors if shape[0] == 1 else factors.repeat_interleave(shape[0], dim=1)
                axes = (1,) * (each.dim() - 1)
                leading = wide.shape[1:] if each.dim() else ()
                by_shape[shape] = wide.view(len(wide), *leading, *axes).unbind()
            found.append(by_shape[shape])
        return found


class Layer(NamedTuple):
    """The experts of one layer, and which of them are to stay still.

    :param parts: their tensors
    :param idle: whether those do that are idle
    :param frozen: those that do so in any case
    """

    parts: list[Part]
    idle: bool
    frozen: frozenset[int]

    def frozen_rows(self) -> Iterator[tuple[Part, list[int]]]:
        """Yield the parts in which experts are frozen, and which of the part's these are."""
        for part in self.parts:
            rows = [k - part.first for k in sorted(self.frozen) if part.holds(k)]
            if rows:
                yield part, rows

    def in_step(self, *, marked: bool) -> Layer:
        """Return what matters in a step: what has gradients.

        :param marked: whether the optimiser keeps idle experts still at all
        """
        parts = [part.with_gradient() for part in self.parts]
        return Layer([part for part in parts if part.tensors], self.idle and marked, self.frozen)

    def matters(self, optimizer: th.optim.Optimizer) -> bool:
        """Say whether a step may have to be another than torch's."""
        if not self.parts:
            return False
        return self.idle or bool(self.frozen) or self.counts(optimizer)

    def counts(self, optimizer: th.optim.Optimizer) -> bool:
        """Say whether an expert has a count of steps of its own."""
        return any(STEPS in optimizer.state.get(p, {}) for part in self.parts for p in part.tensors)

    def active(self) -> list[th.Tensor]:
        """Tell which experts take the step: 1.0 or 0.0 for each of every part's."""
        if self.idle:
            found = with_gradient(self.parts)
        else:
            found = [part.tensors[0].new_ones(part.num_experts) for part in self.parts]
        for part, active_n in zip(self.parts, found, strict=True):
            for k in self.frozen:
                if part.holds(k):
                    active_n[k - part.first] = 0.0
        return found


def together(shares: Sequence[Share]) -> list[Part]:
    """Join the tensors that belong to the same experts, and so step together."""
    parts: dict[tuple[int, int], list[nn.Parameter]] = {}
    for parameter, first, num_experts in shares:
        parts.setdefault((first, num_experts), []).append(parameter)
    return [Part(tensors, *place) for place, tensors in parts.items()]


def with_gradient(parts: Sequence[Part]) -> list[th.Tensor]:
    """Tell which experts of a layer have any gradient: 1.0 or 0.0 for each of every part's."""
    peaks = [part.peaks() for part in parts]
    if len(peaks) > 1:
        last = max(part.first + part.num_experts for part in parts)
        aligned = [
            F.pad(peak_n, (part.first, last - part.first - part.num_experts))
            for part, peak_n in zip(parts, peaks, strict=True)
        ]
        peak_E = th.stack(aligned).amax(0)
        peaks = [peak_E[part.first :][: part.num_experts] for part in parts]
    # Not "> 0": what is not a number is no reason to stay still.
    return [(peak_n != 0).to(peak_n.dtype) for peak_n in peaks]
