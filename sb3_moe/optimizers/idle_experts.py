"""An expert that gets no gradient, or is frozen, stays as it is: weights, moments, count of steps.

Stacked tensors share one state, whose momentum and weight decay would move an idle expert too.

Shapes: E experts of one layer, n of them together in some tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_moe.layers import paths
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.shares import Share
from sb3_moe.optimizers.moments import moments_of
from sb3_moe.optimizers.own_steps import ADAMS, STEPS, factors_of_own_count, redo

#: The optimisers whose state is known: these classes, and none derived from them.
SUPPORTED: tuple[type[th.optim.Optimizer], ...] = (*ADAMS, th.optim.RMSprop, th.optim.SGD)
#: The entry of an optimiser's groups that says whether idle experts stay still: files keep it.
MARK = "freeze_idle"


@contextmanager
def unmasked() -> Iterator[None]:
    """Let gradients reach frozen experts, for one who looks at them and moves nothing."""
    before, IdleExperts.masking = IdleExperts.masking, False
    try:
        yield
    finally:
        IdleExperts.masking = before


class IdleExperts:
    """Keep idle and frozen experts still in every step of an optimiser, by its hooks.

    An expert is idle in a step if the gradient of all that it has is exactly zero. Nothing is read
    from a device other than the CPU. Copies of the experts and their moments take as much memory
    again, on a CPU from the first step on in which one is idle. Gradients of frozen experts are
    zero, so that clipping doesn't count them. An expert that has a count of steps of its own, for
    it is younger than others or was still for a while, is stepped by that.

    :param optimizer: one of ``SUPPORTED``
    :param layers: experts whose weights the optimiser has, and of which idle ones stay still
    :param always: whether they stay still even if the optimiser is loaded from a file that says
        nothing of it; else it goes on as it was saved
    :param frozen: numbers of those that stay still whatever comes, of these layers and others
    :param others: more layers, whose experts may have counts of their own
    :raises ValueError: if the optimiser's class or settings are not supported
    """

    #: Whether gradients of frozen experts are zero, see :func:`unmasked`.
    masking: ClassVar[bool] = True

    def __init__(
        self,
        optimizer: th.optim.Optimizer,
        layers: Sequence[Experts],
        *,
        always: bool,
        frozen: Mapping[Experts, frozenset[int]] | None = None,
        others: Sequence[Experts] = (),
    ) -> None:
        frozen = frozen or {}
        reason = why_unsupported(optimizer, "`freeze_idle`=True" if layers else "`frozen_experts`")
        if reason is not None:
            raise ValueError(reason)
        self._always = always
        known = {p for group in optimizer.param_groups for p in group["params"]}
        self._layers = [
            _Layer(
                _together([share for share in layer.shares() if share.parameter in known]),
                layer in layers,
                frozen.get(layer, frozenset()),
            )
            for layer in dict.fromkeys([*layers, *frozen, *others])
        ]
        self._before: _Before | None = None
        self._copies = _Copies()
        self._beside: dict[nn.Parameter, tuple[int, list[int], th.Tensor]] = {}
        self._mark(optimizer, default=True)
        self._handles = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._hold),
            optimizer.register_load_state_dict_post_hook(self._loaded),
            *(
                each.register_hook(partial(self._mask, each, part.num_experts, rows))
                for layer in self._layers
                for part, rows in layer.frozen_rows()
                for each in part.tensors
                if each.requires_grad  # else nothing moves it anyway
            ),
        ]

    def remove(self) -> None:
        """Take all hooks off again."""
        for handle in self._handles:
            handle.remove()

    def _mark(self, optimizer: th.optim.Optimizer, *, default: bool) -> None:
        if any(layer.idle for layer in self._layers):
            for group in optimizer.param_groups:
                group[MARK] = self._always or group.get(MARK, default)

    def _loaded(self, optimizer: th.optim.Optimizer) -> None:
        """Go on as the file says, which may be anyone's."""
        self._mark(optimizer, default=False)
        for part in (part for layer in self._layers for part in layer.parts):
            for each in part.tensors:
                steps_n = optimizer.state.get(each, {}).get(STEPS)
                if steps_n is not None and steps_n.shape != (part.num_experts,):
                    raise ValueError(
                        f"`{STEPS}` must hold a count for each of {part.num_experts} experts, got "
                        f"shape {tuple(steps_n.shape)}"
                    )

    def _mask(
        self, parameter: nn.Parameter, num_experts: int, rows: list[int], grad: th.Tensor
    ) -> th.Tensor:
        """Return a gradient with zeros for frozen experts, whatever stood there."""
        if not IdleExperts.masking:
            return grad
        masked_nr = grad.reshape(num_experts, -1).clone()
        masked_nr[rows] = 0.0
        if th.is_grad_enabled():
            # TRPO asks for a graph, and moves the actor beside its optimiser, in a direction that
            # begins as noise: the optimiser's next step, the critic's, puts that right.
            weights_nr = parameter.detach().reshape(num_experts, -1)
            self._beside[parameter] = (num_experts, rows, weights_nr[rows].clone())
        return masked_nr.view_as(grad)

    @th.no_grad()
    def _put_back(self) -> None:
        """Undo what was done to frozen experts beside the optimiser."""
        for parameter, (num_experts, rows, weights) in self._beside.items():
            parameter.view(num_experts, -1)[rows] = weights
        self._beside.clear()

    def _remember(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        """Copy what the step is going to change."""
        self._before = None
        marked = bool(optimizer.param_groups[0].get(MARK, False))
        if not marked and not any(each.frozen or each.counts(optimizer) for each in self._layers):
            return
        layers = [layer.in_step(marked=marked) for layer in self._layers]
        layers = [layer for layer in layers if layer.matters(optimizer)]
        if layers and not _torchs_own_will_do(optimizer, layers):
            self._before = _Before(optimizer, layers, self._copies)

    @property
    def memory(self) -> int:
        """Bytes of the copies."""
        return self._copies.memory

    def _hold(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        """Put back what idle experts had, and give the others the step of their own count."""
        self._put_back()
        before, self._before = self._before, None
        if before is not None and before.tensors:
            before.hold(optimizer)


class _Part(NamedTuple):
    """Tensors that the same n experts hold, the ``first`` and those after it."""

    tensors: list[nn.Parameter]
    first: int
    num_experts: int

    def holds(self, k: int) -> bool:
        """Say whether one of the experts has that number."""
        return self.first <= k < self.first + self.num_experts

    def with_gradient(self) -> _Part:
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


class _Layer(NamedTuple):
    """The experts of one layer, and which of them are to stay still.

    :param parts: their tensors
    :param idle: whether those do that are idle
    :param frozen: those that do so in any case
    """

    parts: list[_Part]
    idle: bool
    frozen: frozenset[int]

    def frozen_rows(self) -> Iterator[tuple[_Part, list[int]]]:
        """Yield the parts in which experts are frozen, and which of the part's these are."""
        for part in self.parts:
            rows = [k - part.first for k in sorted(self.frozen) if part.holds(k)]
            if rows:
                yield part, rows

    def in_step(self, *, marked: bool) -> _Layer:
        """Return what matters in a step: what has gradients.

        :param marked: whether the optimiser keeps idle experts still at all
        """
        parts = [part.with_gradient() for part in self.parts]
        return _Layer([part for part in parts if part.tensors], self.idle and marked, self.frozen)

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
            found = _with_gradient(self.parts)
        else:
            found = [part.tensors[0].new_ones(part.num_experts) for part in self.parts]
        for part, active_n in zip(self.parts, found, strict=True):
            for k in self.frozen:
                if part.holds(k):
                    active_n[k - part.first] = 0.0
        return found


class _Copies:
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


class _Before:
    """What tensors and their moments were before a step.

    :param optimizer: that is going to step
    :param layers: with what has gradients
    :param copies: where to copy to
    """

    def __init__(
        self, optimizer: th.optim.Optimizer, layers: list[_Layer], copies: _Copies
    ) -> None:
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

    def _runs(self, optimizer: th.optim.Optimizer, part: _Part) -> list[_Part]:
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


def _together(shares: Sequence[Share]) -> list[_Part]:
    """Join the tensors that belong to the same experts, and so step together."""
    parts: dict[tuple[int, int], list[nn.Parameter]] = {}
    for parameter, first, num_experts in shares:
        parts.setdefault((first, num_experts), []).append(parameter)
    return [_Part(tensors, *place) for place, tensors in parts.items()]


def _with_gradient(parts: Sequence[_Part]) -> list[th.Tensor]:
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


def _torchs_own_will_do(optimizer: th.optim.Optimizer, layers: list[_Layer]) -> bool:
    """Say whether no expert is still now, or counts steps of its own; False if asking would wait.

    :param layers: at least one
    """
    if not all(paths.on_cpu(layer.parts[0].tensors[0]) for layer in layers):
        return False
    if any(layer.frozen or layer.counts(optimizer) for layer in layers):
        return False
    return all(bool(active_n.all()) for layer in layers for active_n in layer.active())


def why_unsupported(
    optimizer: th.optim.Optimizer, option: str = "`freeze_idle`=True"
) -> str | None:
    """Say why experts can't be kept still under an optimiser; None if they can.

    :param optimizer: any
    :param option: what asks for it
    """
    kind, names = type(optimizer), ", ".join(each.__name__ for each in SUPPORTED)
    if kind not in SUPPORTED:
        return f"{option} needs `optimizer_class` to be one of {names}, got {kind.__name__}"
    for name in ("differentiable", "dampening"):
        if value := optimizer.param_groups[0].get(name):
            return (
                f"{option} needs `optimizer_kwargs` without `{name}`, got "
                f"{kind.__name__} with {name}={value}"
            )
    return None
