"""An Adam that knows which entries of its parameters belong to which expert.

Shapes: n experts that hold a parameter together, one after the other on its first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch as th
from torch import Tensor

from sb3_moe.layers.shares import Share

#: The tensors in Adam's state of a parameter; the last only with ``amsgrad``.
AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class ExpertLayer(NamedTuple):
    """What an optimizer knows of a layer of experts.

    :param shares: the tensors that its experts hold, each with its owners
    :param freeze_idle: whether an expert stays unchanged in a step in which it is idle
    :param frozen: indices of experts that stay unchanged in every step
    """

    shares: Sequence[Share]
    freeze_idle: bool = False
    frozen: Collection[int] = ()


class ExpertAdam(th.optim.Adam):
    """Adam in which every expert has its own count of steps, and some experts stay unchanged.

    An expert is idle in a step if the gradients of all its tensors in its layer have norm zero,
    which means no entry above 1e-22. An expert that is frozen, or idle in a layer with
    ``freeze_idle``, keeps its weights, averages and count bit for bit. All others get the step that
    a fused Adam of their own would make. In the state of a parameter that several experts hold,
    ``step`` has an entry for each of them.

    With ``freeze_idle``, each step reads once from the device which experts were active. On a GPU
    this read waits for the backward pass.

    :param params: as for torch's Adam
    :param lr: learning rate
    :param settings: other arguments of torch's Adam; the step is always the fused one, so ``fused``
        and ``foreach`` make no difference
    """

    _layers: list[ExpertLayer]
    _one_by_one: dict[Tensor, OneByOne]

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, **settings: Any) -> None:
        super().__init__(params, lr, **{**settings, "fused": True, "foreach": None})
        self._layers = []
        self._one_by_one = {}

    def set_experts(self, layers: Iterable[ExpertLayer]) -> None:
        """Set where the experts are, and which of them stay unchanged from now on.

        A copy of the optimizer doesn't know: a policy tells the optimizers of its copies anew.
        """
        mine = {parameter for group in self.param_groups for parameter in group["params"]}
        self._layers = [
            each._replace(shares=[share for share in each.shares if share.tensor in mine])
            for each in layers
        ]
        self._one_by_one = {}

    def frozen_while_idle(self) -> dict[Tensor, int]:
        """Return the parameters of experts that are frozen while idle: how many hold each."""
        held = [share for layer in self._layers if layer.freeze_idle for share in layer.shares]
        return {share.tensor: share.num_experts for share in held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a loaded, copied or pickled state, and drop the views of the old tensors."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        vars(self).setdefault("_layers", [])
        self._one_by_one = {}

    @th.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        :param closure: computes the loss anew and returns it
        """
        loss = None if closure is None else th.enable_grad()(closure)()
        moves = self._moves()
        for group in self.param_groups:
            self._step_group(group, moves)
        return loss

    def _moves(self) -> dict[Tensor, Moves]:
        """Return, for each parameter that experts hold, which of these take the step."""
        active_ones = iter(_active([each for each in self._layers if each.freeze_idle]))
        found = {}
        for layer in self._layers:
            active = next(active_ones) if layer.freeze_idle else None
            places: dict[tuple[int, int], Moves] = {}
            for parameter, first, n in layer.shares:
                if (first, n) not in places:
                    own = range(first, first + n)
                    takes = [k not in layer.frozen and (active is None or k in active) for k in own]
                    numbers = [k for k in range(n) if takes[k]]
                    by = None if all(takes) else parameter.new_tensor(takes)
                    places[first, n] = Moves(n, numbers, by)
                found[parameter] = places[first, n]
        return found

    def _step_group(self, group: dict[str, Any], moves: dict[Tensor, Moves]) -> None:
        averages = AVERAGES[: 3 if group["amsgrad"] else 2]
        columns: list[list[Tensor]] = [[] for _ in range(3 + len(averages))]
        counts: list[Tensor] = []  # that grow by 1 in every entry
        for parameter in group["params"]:
            own = moves.get(parameter, WHOLE)
            if parameter.grad is None or not own.numbers:
                continue
            state = self._state_of(parameter, averages, own.num_experts)
            tensors = [state["step"], parameter, *(state[name] for name in averages)]
            if own.num_experts == 1:
                rows: Iterable[Iterable[Tensor]] = zip((*tensors, parameter.grad))
            else:
                known = self._one_by_one.get(parameter)
                if known is None or not known.is_of(tensors):
                    known = self._one_by_one[parameter] = OneByOne(tensors)
                rows = known.rows(parameter.grad, own.numbers)
            if own.by is None:
                counts.append(state["step"])
            else:
                state["step"] += own.by
            for column, row in zip(columns, rows, strict=True):
                column += row
        if counts:
            th._foreach_add_(counts, 1.0)
        if columns[0]:
            _fused_step(group, *columns)

    def _state_of(
        self, parameter: Tensor, averages: Sequence[str], num_experts: int
    ) -> dict[str, Any]:
        """Return a parameter's state, with a count of steps for each of its experts."""
        state = self.state[parameter]
        if not state:
            state["step"] = th.zeros((), dtype=th.float32, device=parameter.device)
            state |= {name: th.zeros_like(parameter) for name in averages}
        if num_experts > 1 and state["step"].numel() == 1:
            state["step"] = state["step"].repeat(num_experts)
        return state


class ExpertAdamW(ExpertAdam, th.optim.AdamW):
    """:class:`ExpertAdam` with decoupled weight decay, as torch's AdamW."""


class Moves(NamedTuple):
    """Which experts of a parameter take a step.

    :param num_experts: n
    :param numbers: indices of the experts that take it
    :param by: what is added to the step counts of all n; None: 1 for each
    """

    num_experts: int
    numbers: Sequence[int]
    by: Tensor | None


WHOLE = Moves(1, (0,), None)


class OneByOne:
    """A parameter's count of steps, the parameter and its averages, expert by expert.

    Making these views takes longer than a step does, so they are kept from step to step.

    :param tensors: the n counts, the parameter, and its averages
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._storages = [each.untyped_storage() for each in tensors]
        # A copy on the host, so that steps need not read the device. Only differences between
        # counts matter here, so steps that all experts take together are not counted.
        self._counts = tensors[0].tolist()
        by_expert = len(self._counts), -1
        self._views = [each.unflatten(0, by_expert).unbind() for each in tensors]
        self._are_alike = len(set(self._counts)) == 1

    def is_of(self, tensors: Sequence[Tensor]) -> bool:
        """Say whether the views are of the memory that these tensors have now."""
        return all(map(is_, map(Tensor.untyped_storage, tensors), self._storages))

    def rows(self, grad: Tensor, numbers: Sequence[int]) -> list[list[Tensor]]:
        """Return the tensors that take a step, and the gradients: whole, or expert by expert.

        :param grad: the parameter's gradient
        :param numbers: indices of the experts that take the step
        """
        if len(numbers) == len(self._counts) and self._are_alike:
            return [[self._views[0][0]], *([each] for each in self._tensors[1:]), [grad]]
        for k in numbers:
            self._counts[k] += 1.0
        self._are_alike = len(set(self._counts)) == 1
        # On a GPU, the fused step asks for one shape of parameter, gradient and averages.
        grad_n = grad.contiguous().unflatten(0, (len(self._counts), -1))
        return [[each[k] for k in numbers] for each in (*self._views, grad_n)]


def _active(layers: Sequence[ExpertLayer]) -> list[set[int]]:
    """Return each layer's experts with a nonzero gradient; the device is read once for all."""
    norms = []
    owners = []
    for number, layer in enumerate(layers):
        for parameter, first, n in layer.shares:
            if parameter.grad is not None:
                norms.append(th.linalg.vector_norm(parameter.grad.reshape(n, -1), dim=1))
                owners.append((number, range(first, first + n)))
    values = iter(th.cat(norms).tolist() if norms else ())
    active: list[set[int]] = [set() for _ in layers]
    for number, experts in owners:
        # Not "> 0": an expert whose gradient is NaN counts as active.
        active[number] |= {k for k in experts if next(values) != 0.0}
    return active


def _fused_step(group: dict[str, Any], counts: list[Tensor], *columns: list[Tensor]) -> None:
    parameters, averages, squares, *largest, grads = columns
    step = th._fused_adamw_ if group["decoupled_weight_decay"] else th._fused_adam_
    step(
        parameters,
        grads,
        averages,
        squares,
        largest[0] if largest else [],
        counts,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=group["maximize"],
    )
