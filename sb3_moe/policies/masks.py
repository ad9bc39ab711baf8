"""Keep masked weights and their running averages at zero, whatever an optimizer does.

A mask is a boolean tensor shaped like its parameter, True where a weight is alive. Masks are stored
in the optimizer's groups, beside the parameters: so they are in every file that holds the
optimizer, and stay when its running averages are reset.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.policies import BaseModel
from torch import Tensor

from sb3_moe.policies.networks import networks_of

#: Entries of an optimizer's groups: a mask or None for each parameter, the number of steps since
#: the masks were drawn, and the seed of random changes.
MASKS = "sparse_masks"
UPDATES = "sparse_updates"
SEED = "sparse_seed"

#: Entries of a parameter's state that depend on the number of steps, and not on gradients.
COUNTS = ("step", "mu_product")

Masks = Mapping[Tensor, Tensor]


def moments_of(optimizer: th.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return a parameter's running averages by name, shaped like it; none before its first step."""
    # `get`, since `state[parameter]` would create a state where there is none.
    return {
        name: value
        for name, value in optimizer.state.get(parameter, {}).items()
        if name not in COUNTS and isinstance(value, Tensor) and value.shape == parameter.shape
    }


def moments_in(optimizer: th.optim.Optimizer) -> dict[Tensor, list[Tensor]]:
    """Return the running averages by parameter, each shaped like it."""
    return {each: list(moments_of(optimizer, each).values()) for each in optimizer.state}


def masks_in(optimizer: th.optim.Optimizer) -> dict[Tensor, Tensor]:
    """Return the masks by parameter, for the parameters that have one."""
    return {
        parameter: mask
        for group in optimizer.param_groups
        for parameter, mask in zip(group["params"], group.get(MASKS, ()), strict=False)
        if mask is not None
    }


def set_masks(optimizer: th.optim.Optimizer, masks: Masks) -> None:
    """Store masks in the optimizer's groups, in place of its present masks."""
    for group in optimizer.param_groups:
        group[MASKS] = [masks.get(parameter) for parameter in group["params"]]


def forget_masks(optimizer: th.optim.Optimizer) -> None:
    """Drop all masks of an optimizer; weights stay as they are."""
    if (steps := vars(optimizer).get("masked_steps")) is not None:
        steps.detach()
    for group in optimizer.param_groups:
        for name in (MASKS, UPDATES, SEED):
            group.pop(name, None)


@th.no_grad()
def apply_masks(optimizer: th.optim.Optimizer) -> None:
    """Set weights that are not alive, and their running averages, to zero."""
    for parameter, mask in masks_in(optimizer).items():
        for tensor in (parameter, *moments_of(optimizer, parameter).values()):
            tensor.mul_(mask)


def keeps_masks(optimizer: th.optim.Optimizer) -> bool:
    """Say whether a :class:`MaskedSteps` keeps an optimizer's masks now."""
    steps = vars(optimizer).get("masked_steps")
    return steps is not None and steps.lasts()


def is_masked(optimizer: th.optim.Optimizer) -> bool:
    """Say whether an optimizer's masks still hold.

    They don't if training went on without them, which makes masked weights nonzero.
    """
    if keeps_masks(optimizer):
        return True
    masks = masks_in(optimizer)
    return len(masks) > 0 and alive_in(optimizer).keys() == masks.keys()


@contextmanager
def masked_as_before(policy: BaseModel) -> Iterator[None]:
    """Apply a policy's masks again after the block, which may change weights by hand.

    Only masks that held before the block are applied.

    :param policy: of any algorithm
    """
    masked = [each for each in networks_of(policy).every_optimizer() if is_masked(each)]
    yield
    for optimizer in masked:
        apply_masks(optimizer)
        mask_targets(policy, masks_in(optimizer))


@th.no_grad()
def mask_targets(policy: BaseModel, masks: Masks) -> None:
    """Set weights to zero in target networks where the online networks' masks do.

    :param policy: of any algorithm
    :param masks: masks of online parameters
    """
    for mine, theirs in networks_of(policy).followers().items():
        if mine in masks:
            theirs.mul_(masks[mine])


def alive_in(optimizer: th.optim.Optimizer) -> dict[Tensor, int]:
    """Return how many weights of each masked parameter are alive.

    A mask that no longer holds, since training went on without it, is left out.
    """
    return {
        parameter: int(mask.sum())
        for parameter, mask in masks_in(optimizer).items()
        if not parameter.detach()[~mask].any()
    }


class MaskedSteps:
    """Keep an optimizer's masks through its steps, by hooks, as long as ``lasts`` returns True.

    Gradients of weights that are not alive are set to zero, so that clipping doesn't count them.
    Only in a step after which connections change are they kept, for ``regrow`` to choose by.

    :param optimizer: an optimizer with masks
    :param is_due: says whether connections change after the step of that number, from 1
    :param regrow: called after such a step, before the masks are applied
    :param lasts: says whether the masks are still to be kept; :meth:`detach` ends it in any case
    """

    def __init__(
        self,
        optimizer: th.optim.Optimizer,
        is_due: Callable[[int], bool],
        regrow: Callable[[th.optim.Optimizer], None],
        lasts: Callable[[], bool],
    ) -> None:
        self.optimizer = optimizer
        self._is_due = is_due
        self._regrow = regrow
        self.lasts = lasts
        # As an attribute, which torch neither saves nor copies with an optimizer.
        vars(optimizer)["masked_steps"] = self
        self._masks: dict[Tensor, Tensor] = {}
        self._recall(optimizer)
        self._handles = [
            *(each.register_hook(partial(self._masked, each)) for each in self._masks),
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_load_state_dict_post_hook(self._recall),
        ]

    @property
    def updates(self) -> int:
        """Steps of the optimizer since the masks were drawn."""
        return self.optimizer.param_groups[0].setdefault(UPDATES, 0)

    def detach(self) -> None:
        """Remove the hooks; the masks stay in the optimizer's groups."""
        for handle in self._handles:
            handle.remove()
        vars(self.optimizer).pop("masked_steps", None)

    def _recall(self, optimizer: th.optim.Optimizer) -> None:
        """Take the masks of a loaded state; if it has none, keep the present ones."""
        found = masks_in(optimizer) or self._masks
        self._masks = {p: mask.to(p.device) for p, mask in found.items()}
        set_masks(optimizer, self._masks)
        apply_masks(optimizer)

    def _masked(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        mask = self._masks.get(parameter)
        if mask is None or not self.lasts() or self._is_due(self.updates + 1):
            return gradient
        return gradient * mask

    def _after_step(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        if not self.lasts():
            return
        number = self.updates + 1
        for group in optimizer.param_groups:
            group[UPDATES] = number
        if self._is_due(number):
            self._regrow(optimizer)
        apply_masks(optimizer)
