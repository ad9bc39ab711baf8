"""One action space for all tasks: each task takes the part of an action that it understands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.spaces.observations import (
    ARRAYS,
    common_space,
    counts_from_elsewhere,
    different_kinds,
)

InvalidAction = Literal["noop", "modulo", "error"]
# Floats of 64 bits tell so many apart in [-1, 1], with room for rounding.
_MOST_VALUES = 2**50


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

    :param sizes: () or (D, ...) number of choices of the task
    :param start: () or (D, ...) first choice of the task
    :param invalid: `"noop"` for the task's first choice, `"modulo"` to wrap around, or `"error"`
    :param dtype: of the task's actions
    """

    sizes: np.ndarray
    start: np.ndarray
    invalid: InvalidAction
    # A snapshot of version 0.1 holds fits without one: they gave int64.
    dtype: Any = np.dtype(np.int64)  # noqa: RUF009  # a dtype can't be changed

    def __call__(self, action: Any) -> Any:
        """Return the task's action; extra dimensions are cut off.

        :raises ValueError: if a choice is no whole number, or, with `"error"`, not the task's
        """
        choice = np.asarray(action)[_corner(self.sizes)]
        if choice.dtype.kind == "f" and not _are_whole(choice):
            raise ValueError(f"`action` must be of whole numbers, got {choice.tolist()}")
        valid = (choice >= 0) & (choice < self.sizes)
        if self.invalid == "error" and not valid.all():
            raise ValueError(
                f"`action` must be at least 0 and below {self.sizes.tolist()} in this task, "
                f"got {choice.tolist()}"
            )
        modulo = self.invalid == "modulo"
        choice = (choice % self.sizes if modulo else np.where(valid, choice, 0)) + self.start
        choice = np.asarray(choice).astype(self.dtype)
        return choice if choice.ndim else choice[()]


@dataclass(frozen=True)
class BoxFit:
    """Cut off the dimensions that the task lacks.

    :param corner: where the task's action lies in the common one
    :param dtype: of the task's actions; what it can't hold is rounded
    """

    corner: Any
    dtype: Any

    def __call__(self, action: Any) -> Any:
        """Return the task's action."""
        action = np.asarray(action)[self.corner]
        if self.dtype.kind != "f" and action.dtype.kind == "f":
            action = np.rint(action)
        return action.astype(self.dtype, copy=False)


@dataclass(frozen=True)
class UnitFit:
    """Cut off the dimensions that the task lacks, and map [-1, 1] to its bounds.

    The whole numbers of an integer Box have equal shares of [-1, 1], in order.

    :param low: the task's lower bounds
    :param high: the task's upper bounds
    """

    low: np.ndarray
    high: np.ndarray

    def __call__(self, action: Any) -> Any:
        """Return the task's action."""
        low, high = self.low, self.high
        action = np.asarray(action)[_corner(low)]
        if low.dtype.kind == "f":
            # Rounding may miss a bound by the last digit.
            own = np.clip(low + (action + 1) * (high - low) / 2, low, high)
            return own.astype(low.dtype)
        shares = np.floor((action.astype(np.float64) + 1) / 2 * num_values(low, high))
        # Wide enough that nothing overflows.
        wide = np.uint64 if low.dtype == np.uint64 else np.int64
        last = num_values(low, high) - 1
        return (low.astype(wide) + np.clip(shares, 0, last).astype(wide)).astype(low.dtype)


def num_values(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return how many whole numbers there are between bounds, both included."""
    return high.astype(np.float64) - low.astype(np.float64) + 1


def pad_actions(
    task_spaces: Sequence[Space[Any]], names: Sequence[str], invalid: InvalidAction
) -> tuple[Space[Any], list[ActionFit]]:
    """Find a common action space, and how each task reads its actions.

    The largest number of choices is taken, counted from 0: choice i is a task's start + i. Boxes
    with different bounds on a shared dimension become a [-1, 1] of floats: it is mapped to each
    task's own bounds, and to an integer Box in equal shares per whole number. So each task's own
    actions can all be reached.

    :param task_spaces: all Box, Discrete, MultiDiscrete or MultiBinary; others must be equal
    :raises ValueError: if the spaces are of different or other kinds, or can't be mapped
    """
    first = task_spaces[0]
    if all(space == first for space in task_spaces) and not _must_be_read(first):
        return first, [Unchanged() for _ in task_spaces]
    if any(not isinstance(space, ARRAYS) for space in task_spaces):
        # Texts and Dicts, which observations may be, have no common actions.
        raise different_kinds(task_spaces, names, "action_space")
    if all(isinstance(space, spaces.Box) for space in task_spaces):
        return _pad_boxes(task_spaces, names)
    common = common_space(task_spaces, names, "action_space")
    if isinstance(common, spaces.MultiBinary) and len(common.shape) == 1:
        # SB3 refuses actions whose shape was given as a tuple.
        common = spaces.MultiBinary(common.shape[0])
    return common, [_fit(common, space, invalid) for space in task_spaces]


def _must_be_read(space: Space[Any]) -> bool:
    """Return whether SB3 gives other values than the space's: floats, or choices from 0."""
    if isinstance(space, spaces.Box):
        return np.dtype(space.dtype).kind != "f"
    return counts_from_elsewhere(space)


def _fit(common: Space[Any], space: Any, invalid: InvalidAction) -> ActionFit:
    if space == common:
        return Unchanged()
    if isinstance(space, spaces.MultiBinary):
        return BoxFit(_corner(space), space.dtype)
    sizes = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    return DiscreteFit(sizes, np.asarray(space.start), invalid, space.dtype)


def _are_whole(choice: np.ndarray) -> bool:
    return bool((np.isfinite(choice) & (choice == np.rint(choice))).all())


def _corner(array: Any) -> Any:
    """Return where an array lies in a larger one, or the rows of a batch in a larger batch."""
    return (Ellipsis, *(slice(size) for size in array.shape))


def _pad_boxes(
    task_spaces: Sequence[Any], names: Sequence[str]
) -> tuple[Space[Any], list[ActionFit]]:
    common: Any = common_space(task_spaces, names, "action_space")
    if all(
        np.array_equal(common.low[_corner(space)], space.low)
        and np.array_equal(common.high[_corner(space)], space.high)
        for space in task_spaces
    ):
        return common, [BoxFit(_corner(space), space.dtype) for space in task_spaces]
    for name, space in zip(names, task_spaces, strict=True):
        _require_mappable(name, space)
    unit = spaces.Box(-1, 1, common.shape, _unit_dtype(task_spaces))
    return unit, [UnitFit(space.low, space.high) for space in task_spaces]


def _require_mappable(name: str, space: Any) -> None:
    counted = space.dtype.kind != "f"
    with np.errstate(over="ignore"):
        span = num_values(space.low, space.high) if counted else space.high - space.low
    if not space.is_bounded() or not np.isfinite(span).all():
        raise ValueError(
            f"`action_space`='pad' can't map bounds to each other unless all are finite, "
            f"and the range too, got {name!r}: {space}"
        )
    if counted and (span > _MOST_VALUES).any():
        raise ValueError(
            f"`action_space`='pad' can't map [-1, 1] to more than 2**50 whole numbers, "
            f"got {name!r}: {space}"
        )


def _unit_dtype(task_spaces: Sequence[Any]) -> Any:
    """Return a type of floats fine enough for each whole number of an integer Box."""
    floats = [space.dtype for space in task_spaces if space.dtype.kind == "f"]
    counts = [
        num_values(space.low, space.high).max(initial=1)
        for space in task_spaces
        if space.dtype.kind != "f"
    ]
    if counts:
        floats.append(np.dtype(np.float32 if max(counts) <= 2**20 else np.float64))
    return np.result_type(*floats).type


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
