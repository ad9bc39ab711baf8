"""What tensors were before an optimiser's step, to undo it for experts that are to stay still.

Shapes: n experts that hold some tensors together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_moe.layers import paths
from sb3_moe.optimizers.expert_parts import Layer, Part
from sb3_moe.optimizers.moments import moments_of
from sb3_moe.optimizers.own_steps import ADAMS, STEPS, factors_of_own_count, redo


class Copies:
    """Copies of tensors, kept from step to step: new memory would cost more than the copying."""

    def __init__(self) -> None:
        self._kept: dict[tuple[nn.Parameter, str], th.Tensor] = {}

    @property
    def memory(self) -> int:
        """Bytes of them all."""
        return sum(each.nbytes for each in self._kept.values())

    def of(self, named: Sequence[tuple[nn.Parameter, str, th.Tensor]]) -> list[th.Tensor]:
        """Copy tensors, each known by the parameter that it belongs to and a name."""
        copies, tensors = [], []
        for parameter, name, tensor in named:
            copy = self._kept.get((parameter, name))
            if copy is None or copy.device != tensor.device or copy.dtype != tensor.dtype:
                copy = self._kept[parameter, name] = th.empty_like(tensor)
            copies.append(copy)
            tensors.append(tensor)
        if copies:
            th._foreach_copy_(copies, tensors)
        return copies


class Before:
    """What tensors and their moments were before a step.

    :param optimizer: that is going to step
    :param layers: with what has gradients
    :param copies: where to copy to
    """

    def __init__(self, optimizer: th.optim.Optimizer, layers: list[Layer], copies: Copies) -> None:
        self._layers, self._copies = layers, copies
        self.tensors = [each for layer in layers for part in layer.parts for each in part.tensors]
        moments = [moments_of(optimizer, each) for each in self.tensors]
        with th.no_grad():
            self._olds = copies.of([(each, "", each) for each in self.tensors])
            copied = iter(
                copies.of(
                    [
                        (each, name, moment)
                        for each, named in zip(self.tensors, moments, strict=True)
                        for name, moment in named.items()
                    ]
                )
            )
        self._moments = [{name: next(copied) for name in named} for named in moments]
        self._new = {each for each in self.tensors if not optimizer.state.get(each)}

    @th.no_grad()
    def hold(self, optimizer: th.optim.Optimizer) -> None:
        """Undo the step for idle experts, and redo it where the count of steps differs."""
        is_adam = isinstance(optimizer, ADAMS)
        groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        factors: list[tuple[th.Tensor, ...]] = []
        for layer in self._layers:
            parts = zip(layer.parts, layer.active(), strict=True)
            runs = ((run, active) for part, active in parts for run in self._runs(optimizer, part))
            for part, active_n in runs:
                first, of_experts = part.tensors[0], [1.0 - active_n]
                if is_adam:
                    state, group = optimizer.state[first], groups[first]
                    of_experts += factors_of_own_count(group, state, active_n)
                factors += part.spread(th.stack(of_experts))
        idle = [each[0] for each in factors]
        self._hold_moments(optimizer, idle)
        if is_adam:
            self._redo(optimizer, [each[1:] for each in factors])
        else:
            th._foreach_lerp_(list[th.Tensor](self.tensors), self._olds, idle)

    def _runs(self, optimizer: th.optim.Optimizer, part: Part) -> list[Part]:
        """Take tensors apart that have taken different counts of steps: some came later."""
        first, *others = part.tensors
        if STEPS in optimizer.state[first]:  # of the others too, unless that is of one that is new
            apart = any(each in self._new or STEPS in optimizer.state[each] for each in others)
        else:
            apart = isinstance(optimizer, ADAMS) and _differ(optimizer, part.tensors)
        return [part._replace(tensors=[each]) for each in part.tensors] if apart else [part]

    def _hold_moments(self, optimizer: th.optim.Optimizer, idle: Sequence[th.Tensor]) -> None:
        news, olds, weights = [], [], []
        for tensor, before, weight in zip(self.tensors, self._moments, idle, strict=True):
            for name, moment in moments_of(optimizer, tensor).items():
                if name in before:
                    news.append(moment)
                    olds.append(before[name])
                    weights.append(weight)
                else:  # made in this step, of zeros
                    moment.mul_(1.0 - weight)
        if news:
            th._foreach_lerp_(news, olds, weights)

    def _redo(self, optimizer: th.optim.Optimizer, factors: Sequence[Sequence[th.Tensor]]) -> None:
        states = [optimizer.state[each] for each in self.tensors]
        second = "max_exp_avg_sq" if "max_exp_avg_sq" in states[0] else "exp_avg_sq"
        averages, squares = (
            self._copies.of(
                [(p, name, state[name]) for p, state in zip(self.tensors, states, strict=True)]
            )
            for name in ("exp_avg", second)
        )
        redo(list(self.tensors), self._olds, averages, squares, factors)


def _differ(optimizer: th.optim.Optimizer, tensors: Sequence[nn.Parameter]) -> bool:
    """Say whether tensors may have taken different counts of torch's steps, or one has its own."""
    if len(tensors) < 2:
        return False
    states = [optimizer.state[each] for each in tensors]
    steps = [each["step"] for each in states]
    if not all(map(paths.on_cpu, steps)):
        return True  # to look would be to wait; apart they are right in any case
    return len({float(each) for each in steps}) > 1 or any(STEPS in each for each in states)
