"""One action space for all tasks: each task takes the part of an action that it understands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.spaces.observations import common_space

InvalidAction = Literal["noop", "modulo", "error"]


class ActionFit(Protocol):
    """Turn actions of the common space into one task's; works on one action and on a batch."""

    def __call__(self, action: Any) -> Any:
        """Return the task's action."""


class Unchanged:
    """The task's action space is the common one."""

    def __call__(self, action: Any) -> Any:
        """Return the action as it is."""
        return action


@dataclass(frozen=True)
class DiscreteFit:
    """Replace choices that the task doesn't have, and count from the task's own start.

    :param sizes: () or (D,) number of choices of the task
    :param start: () or (D,) first choice of the task
    :param invalid: `"noop"` for the task's first choice, `"modulo"` to wrap around, or `"error"`
    """

    sizes: np.ndarray
    start: np.ndarray
    invalid: InvalidAction

    def __call__(self, action: Any) -> Any:
        """Return the task's action; extra dimensions are cut off."""
        choice = np.asarray(action)
        if self.sizes.ndim:
            choice = choice[..., : len(self.sizes)]
        valid = choice < self.sizes
        if self.invalid == "error" and not valid.all():
            raise ValueError(
                f"`action` must be below {self.sizes.tolist()} in this task, got {choice.tolist()}"
            )
        modulo = self.invalid == "modulo"
        choice = (choice % self.sizes if modulo else np.where(valid, choice, 0)) + self.start
        return choice if choice.ndim else choice[()]


@dataclass(frozen=True)
class BoxFit:
    """Cut off the dimensions that the task lacks, and map [-1, 1] to its bounds where asked.

    :param region: where the task's action lies in the common one
    :param bounds: the task's own (low, high), or None where they are the common ones
    """

    region: tuple[slice, ...]
    bounds: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, action: Any) -> Any:
        """Return the task's action."""
        # The leading dimension of a batch is left alone.
        region: Any = (Ellipsis, *self.region)
        action = np.asarray(action)[region]
        if self.bounds is None:
            return action
        low, high = self.bounds
        return (low + (action + 1) * (high - low) / 2).astype(low.dtype)


def pad_actions(
    task_spaces: Sequence[Space[Any]], names: Sequence[str], invalid: InvalidAction
) -> tuple[Space[Any], list[ActionFit]]:
    """Find a common action space, and how each task reads its actions.

    Boxes with different bounds on a shared dimension become [-1, 1], mapped to each task's own.

    :param task_spaces: all Box, Discrete, MultiDiscrete or MultiBinary
    :raises ValueError: if the spaces are of different or other kinds, or can't be mapped
    """
    if all(space == task_spaces[0] for space in task_spaces):
        return task_spaces[0], [Unchanged() for _ in task_spaces]
    if all(isinstance(space, spaces.Box) for space in task_spaces):
        return _pad_boxes(task_spaces, names)
    common = common_space(task_spaces, names, "action_space")
    return common, [_fit(common, space, invalid) for space in task_spaces]


def _fit(common: Space[Any], space: Any, invalid: InvalidAction) -> ActionFit:
    if space == common:
        return Unchanged()
    if isinstance(space, spaces.Discrete):
        return DiscreteFit(np.asarray(space.n), np.asarray(space.start), invalid)
    if isinstance(space, spaces.MultiDiscrete) and len(space.nvec.shape) == 1:
        return DiscreteFit(space.nvec, space.start, invalid)
    if isinstance(space, spaces.MultiBinary):
        return BoxFit(tuple(slice(size) for size in space.shape))
    raise ValueError(f"`action_space`='pad' can't pad {space}")


def _pad_boxes(
    task_spaces: Sequence[Any], names: Sequence[str]
) -> tuple[Space[Any], list[ActionFit]]:
    common: Any = common_space(task_spaces, names, "action_space")
    regions = [tuple(slice(size) for size in space.shape) for space in task_spaces]
    if all(
        np.array_equal(common.low[region], space.low)
        and np.array_equal(common.high[region], space.high)
        for region, space in zip(regions, task_spaces, strict=True)
    ):
        return common, [BoxFit(region) for region in regions]
    for name, space in zip(names, task_spaces, strict=True):
        if not space.is_bounded():
            raise ValueError(
                f"`action_space`='pad' can't map bounds to each other unless all are finite, "
                f"got {name!r}: {space}"
            )
    unit = spaces.Box(-1, 1, common.shape, common.dtype)
    return unit, [
        BoxFit(region, (space.low, space.high))
        for region, space in zip(regions, task_spaces, strict=True)
    ]


def action_mask(common: Space[Any], space: Any) -> np.ndarray | None:
    """Return which choices of the common space a task has; None for spaces without choices."""
    sizes, own = choices(common), choices(space)
    if not sizes:
        return None
    own += [1] * (len(sizes) - len(own))
    return np.concatenate([np.arange(size) < n for size, n in zip(sizes, own, strict=True)])


def choices(space: Any) -> list[int]:
    """Return how many entries of a mask each choice has; none for a space without choices.

    A bit is a choice of two, as sb3-contrib has it.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete) and len(space.nvec.shape) == 1:
        return [int(size) for size in space.nvec]
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return [2] * space.shape[0]
    return []
