"""An expert that gets no gradient, or is frozen, stays as it is: weights, moments, count of steps.

Stacked tensors share one state, whose momentum and weight decay would move an idle expert too.

Shapes: n experts that hold some tensors together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_moe.layers import paths
from sb3_moe.layers.experts import Experts
from sb3_moe.optimizers.expert_parts import Layer, together
from sb3_moe.optimizers.own_steps import ADAMS, STEPS
from sb3_moe.optimizers.undone_steps import Before, Copies

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
            Layer(
                together([share for share in layer.shares() if share.parameter in known]),
                layer in layers,
                frozen.get(layer, frozenset()),
            )
            for layer in dict.fromkeys([*layers, *frozen, *others])
        ]
        self._before: Before | None = None
        self._copies = Copies()
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
            self._before = Before(optimizer, layers, self._copies)

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


def _torchs_own_will_do(optimizer: th.optim.Optimizer, layers: list[Layer]) -> bool:
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
