"""An expert that gets no gradient stays as it is: weights, moments and count of steps.

Stacked tensors share one state, whose momentum and weight decay would move an idle expert too.

Shapes: E experts of one layer, n of them together in some tensors, N weights of each there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_moe.layers.experts import Experts
from sb3_moe.layers.shares import Share
from sb3_moe.optimizers.own_steps import ADAMS, STEPS, step_of_own_count

#: The optimisers whose state is known: these classes, and none derived from them.
SUPPORTED: tuple[type[th.optim.Optimizer], ...] = (*ADAMS, th.optim.RMSprop, th.optim.SGD)
#: The entry of an optimiser's groups that says whether idle experts stay still: files keep it.
MARK = "freeze_idle"


class IdleExperts:
    """Keep idle experts still in every step of an optimiser, by its hooks.

    An expert is idle in a step if the gradient of all that it has is exactly zero. Nothing is read
    from the device. While a step lasts there is a copy of the experts and their moments.

    :param optimizer: one of ``SUPPORTED``
    :param layers: experts whose weights the optimiser has
    :param always: whether they stay still even if the optimiser is loaded from a file that says
        nothing of it; else it goes on as it was saved
    :raises ValueError: if the optimiser's class or settings are not supported
    """

    def __init__(
        self, optimizer: th.optim.Optimizer, layers: Sequence[Experts], *, always: bool
    ) -> None:
        reason = why_unsupported(optimizer)
        if reason is not None:
            raise ValueError(reason)
        self._always = always
        known = {p for group in optimizer.param_groups for p in group["params"]}
        self._layers = [
            _together([share for share in layer.shares() if share.parameter in known])
            for layer in layers
        ]
        self._stepping: list[list[_Step]] = []
        self._mark(optimizer, default=True)
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._hold)
        optimizer.register_load_state_dict_post_hook(self._loaded)

    def _mark(self, optimizer: th.optim.Optimizer, *, default: bool) -> None:
        for group in optimizer.param_groups:
            group[MARK] = self._always or group.get(MARK, default)

    def _loaded(self, optimizer: th.optim.Optimizer) -> None:
        self._mark(optimizer, default=False)

    def _remember(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        """Copy what the step is going to change."""
        self._stepping = []
        if not optimizer.param_groups[0][MARK]:
            return
        for layer in self._layers:
            stepping = [part.with_gradient() for part in layer]
            self._stepping.append([_Step(optimizer, part) for part in stepping if part.tensors])

    @th.no_grad()
    def _hold(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        """Put back what idle experts had, and give the others the step of their own count."""
        stepping, self._stepping = self._stepping, []
        for steps in stepping:
            for step, active_n in zip(steps, _active([step.part for step in steps]), strict=True):
                step.hold(active_n)


class _Part(NamedTuple):
    """Tensors that the same n experts hold, the ``first`` and those after it."""

    tensors: list[nn.Parameter]
    first: int
    num_experts: int

    def with_gradient(self) -> _Part:
        """Leave out what torch does not step."""
        return self._replace(tensors=[each for each in self.tensors if each.grad is not None])

    def joined(self, tensors: Sequence[th.Tensor]) -> th.Tensor:
        """Return what is shaped like the tensors as one, (n, N)."""
        return th.cat([each.reshape(self.num_experts, -1) for each in tensors], dim=1)

    def put(self, joined_nN: th.Tensor, tensors: Sequence[th.Tensor]) -> None:
        """Write what is joined into what is shaped like the tensors."""
        sizes = [each.numel() // self.num_experts for each in tensors]
        for each, values_nM in zip(tensors, joined_nN.split(sizes, dim=1), strict=True):
            # Always a view of the tensor, however it is laid out.
            own = (each if each.dim() else each.view(1)).unflatten(0, (self.num_experts, -1))
            own.copy_(values_nM.view(own.shape))


class _Step:
    """One step of the tensors of a part, with what they were before it."""

    def __init__(self, optimizer: th.optim.Optimizer, part: _Part) -> None:
        self.part, self._optimizer = part, optimizer
        with th.no_grad():
            self._old_nN = part.joined(part.tensors)
            self._old_moments = {name: part.joined(each) for name, each in self._moments().items()}

    def _moments(self) -> dict[str, list[th.Tensor]]:
        """Return the running averages of all tensors by name, none before the first step."""
        # Asking for the state of a tensor that has none would make it.
        states = [self._optimizer.state.get(tensor, {}) for tensor in self.part.tensors]
        names = [
            name
            for name, value in states[0].items()
            if isinstance(value, th.Tensor) and name not in ("step", STEPS)
        ]
        return {name: [state[name] for state in states] for name in names}

    def hold(self, active_n: th.Tensor) -> None:
        """Undo the step for idle experts, and redo it where the count of steps differs."""
        part, active_n1, held = self.part, active_n.unsqueeze(1), {}
        for name, moments in self._moments().items():
            new_nN, old_nN = part.joined(moments), self._old_moments.get(name)
            # What was made in this step was made of zeros.
            held[name] = new_nN * active_n1 if old_nN is None else old_nN.lerp_(new_nN, active_n1)
            part.put(held[name], moments)
        new_nN = part.joined(part.tensors)
        if isinstance(self._optimizer, ADAMS):
            first, state = part.tensors[0], self._optimizer.state
            group = next(g for g in self._optimizer.param_groups if _has(g["params"], first))
            new_nN = step_of_own_count(group, state[first], active_n, self._old_nN, new_nN, held)
        else:
            new_nN = self._old_nN.lerp_(new_nN, active_n1)
        part.put(new_nN, part.tensors)


def _has(tensors: Sequence[th.Tensor], tensor: th.Tensor) -> bool:
    return any(each is tensor for each in tensors)


def _together(shares: Sequence[Share]) -> list[_Part]:
    """Join the tensors that belong to the same experts, and so step together."""
    parts: dict[tuple[int, int], list[nn.Parameter]] = {}
    for parameter, first, num_experts in shares:
        parts.setdefault((first, num_experts), []).append(parameter)
    return [_Part(tensors, *place) for place, tensors in parts.items()]


def _active(parts: Sequence[_Part]) -> list[th.Tensor]:
    """Tell which experts of a layer have any gradient: 1.0 or 0.0 for each of every part's."""
    peaks = [
        part.joined([each.grad for each in part.tensors if each.grad is not None]).abs().amax(1)
        for part in parts
    ]
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


def why_unsupported(optimizer: th.optim.Optimizer) -> str | None:
    """Say why idle experts can't be kept still under an optimiser; None if they can.

    :param optimizer: any
    """
    kind, names = type(optimizer), ", ".join(each.__name__ for each in SUPPORTED)
    if kind not in SUPPORTED:
        return (
            f"`freeze_idle`=True needs `optimizer_class` to be one of {names}, got {kind.__name__}"
        )
    for name in ("differentiable", "dampening"):
        if value := optimizer.param_groups[0].get(name):
            return (
                f"`freeze_idle`=True needs `optimizer_kwargs` without `{name}`, got "
                f"{kind.__name__} with {name}={value}"
            )
    return None
