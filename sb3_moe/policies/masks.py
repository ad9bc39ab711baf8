"""Weights that stay zero, with their running averages, whatever an optimizer does.

A mask is a boolean tensor like its parameter, True where a weight is alive. Masks lie in the
optimizer's groups, beside the parameters: every file that holds the optimizer holds them, and
forgetting its running averages doesn't forget them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import BaseModel

from sb3_moe.policies.networks import networks_of

#: The entries of an optimizer's groups: a mask or None for each parameter, how many steps there
#: were since, and what chance is drawn from.
MASKS, UPDATES, SEED = "sparse_masks", "sparse_updates", "sparse_seed"

#: Entries of a parameter's state that count, and are the same for any gradient.
COUNTS = ("step", "mu_product")

Masks = Mapping[th.Tensor, th.Tensor]


def moments_of(optimizer: th.optim.Optimizer, parameter: th.Tensor) -> dict[str, th.Tensor]:
    """Return a parameter's running averages by name, shaped like it; none before its first step."""
    # Asking for the state of a tensor that has none would make it.
    return {
        name: value
        for name, value in optimizer.state.get(parameter, {}).items()
        if name not in COUNTS and isinstance(value, th.Tensor) and value.shape == parameter.shape
    }


def moments_in(optimizer: th.optim.Optimizer) -> dict[th.Tensor, list[th.Tensor]]:
    """Return the running averages by parameter, each shaped like it."""
    return {each: list(moments_of(optimizer, each).values()) for each in optimizer.state}


def masks_in(optimizer: th.optim.Optimizer) -> dict[th.Tensor, th.Tensor]:
    """Return the masks by parameter, of those that have one."""
    return {
        parameter: mask
        for group in optimizer.param_groups
        for parameter, mask in zip(group["params"], group.get(MASKS, ()), strict=False)
        if mask is not None
    }


def set_masks(optimizer: th.optim.Optimizer, masks: Masks) -> None:
    """Keep masks beside the parameters."""
    for group in optimizer.param_groups:
        group[MASKS] = [masks.get(parameter) for parameter in group["params"]]


def forget_masks(optimizer: th.optim.Optimizer) -> None:
    """Keep no masks any more; weights stay as they are."""
    if (steps := vars(optimizer).get("masked_steps")) is not None:
        steps.detach()
    for group in optimizer.param_groups:
        for name in (MASKS, UPDATES, SEED):
            group.pop(name, None)


@th.no_grad()
def apply_masks(optimizer: th.optim.Optimizer) -> None:
    """Set weights that are not alive to zero, and their moments."""
    masks, moments = masks_in(optimizer), moments_in(optimizer)
    for parameter, mask in masks.items():
        for tensor in (parameter, *moments.get(parameter, ())):
            tensor.mul_(mask)


def always() -> bool:
    """Say that something lasts."""
    return True


def keeps_masks(optimizer: th.optim.Optimizer) -> bool:
    """Say whether someone keeps an optimizer's masks now."""
    steps = vars(optimizer).get("masked_steps")
    return steps is not None and steps.lasts()


def is_masked(optimizer: th.optim.Optimizer) -> bool:
    """Say whether masks hold: training on without them fills what they leave out."""
    if keeps_masks(optimizer):
        return True
    masks = masks_in(optimizer)
    return len(masks) > 0 and alive_in(optimizer).keys() == masks.keys()


@contextmanager
def masked_as_before(policy: BaseModel) -> Iterator[None]:
    """Apply a policy's masks, where some hold, after its weights were changed by hand.

    :param policy: of any algorithm
    """
    masked = [each for each in networks_of(policy).every_optimizer() if is_masked(each)]
    yield
    for optimizer in masked:
        apply_masks(optimizer)
        mask_targets(policy, masks_in(optimizer))


@th.no_grad()
def mask_targets(policy: BaseModel, masks: Masks) -> None:
    """Set to zero in target networks what is zero in those that they follow.

    :param policy: of any algorithm
    :param masks: of online parameters
    """
    for online, target in networks_of(policy).targets().items():
        for mine, theirs in zip(online.parameters(), target.parameters(), strict=True):
            if mine in masks:
                theirs.mul_(masks[mine])


def alive_in(optimizer: th.optim.Optimizer) -> dict[th.Tensor, int]:
    """Return how many weights of each masked parameter are alive.

    A mask that isn't kept any more, since training went on without it, doesn't count.
    """
    return {
        parameter: int(mask.sum())
        for parameter, mask in masks_in(optimizer).items()
        if not parameter.detach()[~mask].any()
    }


class MaskedSteps:
    """Keep the masks of an optimizer through its steps, by hooks, while it lasts.

    Gradients of weights that are not alive are zero, so that they don't count where gradients are
    clipped; but in a step after which connections change, ``regrow`` finds all of them.

    :param optimizer: with masks
    :param is_due: says whether connections change after the step of that number, from 1
    :param regrow: called after such a step, before the masks are applied
    :param lasts: says whether the masks are still to be kept; :meth:`detach` ends it in any case
    """

    def __init__(
        self,
        optimizer: th.optim.Optimizer,
        is_due: Callable[[int], bool],
        regrow: Callable[[th.optim.Optimizer], None],
        lasts: Callable[[], bool] = always,
    ) -> None:
        self.optimizer, self._is_due, self._regrow = optimizer, is_due, regrow
        self.lasts = lasts
        # Torch saves and copies an optimizer without its attributes.
        vars(optimizer)["masked_steps"] = self
        self._masks: dict[th.Tensor, th.Tensor] = {}
        self._recall(optimizer)
        self._handles = [
            *(each.register_hook(self._hook(each)) for each in self._masks),
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_load_state_dict_post_hook(self._recall),
        ]

    @property
    def updates(self) -> int:
        """Steps of the optimizer since the masks were drawn."""
        number: int = self.optimizer.param_groups[0].setdefault(UPDATES, 0)
        return number

    def detach(self) -> None:
        """Leave the optimizer alone; masks stay beside its parameters."""
        for handle in self._handles:
            handle.remove()
        vars(self.optimizer).pop("masked_steps", None)

    def _recall(self, optimizer: th.optim.Optimizer) -> None:
        """Take the masks of what was loaded; where that has none, ours stay."""
        found = masks_in(optimizer) or self._masks
        self._masks = {p: mask.to(p.device) for p, mask in found.items()}
        set_masks(optimizer, self._masks)
        apply_masks(optimizer)

    def _hook(self, parameter: th.Tensor) -> Callable[[th.Tensor], th.Tensor]:
        def masked(gradient: th.Tensor) -> th.Tensor:
            mask = self._masks.get(parameter)
            if mask is None or not self.lasts() or self._is_due(self.updates + 1):
                return gradient
            return gradient * mask

        return masked

    def _after_step(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        if not self.lasts():
            return
        number = self.updates + 1
        for group in optimizer.param_groups:
            group[UPDATES] = number
        if self._is_due(number):
            self._regrow(optimizer)
        apply_masks(optimizer)
