"""One action space for all tasks: each task takes the part of an action that it understands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.spaces.observations import common_space, corner

# Turns an action of the common space, or a batch of them, into a task's own.
ActionFit = Callable[[Any], Any]


def unchanged(action: Any) -> Any:
    """Return the action of a task whose space is the common one."""
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
    invalid: str
    dtype: Any

    def __call__(self, action: Any) -> Any:
        """Return the task's action; extra dimensions are cut off.

        :raises ValueError: with `"error"`, if the task lacks a choice
        """
        choice = np.asarray(action)[corner(self.sizes)]
        valid = (choice >= 0) & (choice < self.sizes)
        if self.invalid == "error" and not valid.all():
            raise ValueError(
                f"`action` must be at least 0 and below {self.sizes.tolist()} in this task, "
                f"got {choice.tolist()}"
            )
        own = choice % self.sizes if self.invalid == "modulo" else np.where(valid, choice, 0)
        return (own + self.start).astype(self.dtype)


@dataclass(frozen=True)
class BoxFit:
    """Cut off the dimensions that the task lacks, and map [-1, 1] to the task's bounds if `maps`.

    :param space: the task's action space, a Box or a MultiBinary
    :param maps: whether the common space is [-1, 1], as the tasks' bounds differ
    """

    space: Any
    maps: bool = False

    def __call__(self, action: Any) -> Any:
        """Return the task's action."""
        action = np.asarray(action)[corner(self.space)]
        if self.maps:
            low = self.space.low
            high = self.space.high
            # Clipped, as rounding may exceed a bound in the last digit.
            action = np.clip(low + (action + 1) * (high - low) / 2, low, high)
        return action.astype(self.space.dtype, copy=False)


def pad_actions(task_spaces: Mapping[str, Any], invalid: str) -> tuple[Space, list[ActionFit]]:
    """Find a common action space, and how each task reads its actions.

    The largest number of choices is taken, counted from 0: choice i stands for a task's start + i.
    Boxes with different bounds on a shared dimension become [-1, 1], which is mapped to each task's
    own bounds. So all actions of each task can be reached.

    :param task_spaces: by the tasks' names, all of one kind: Discrete, MultiDiscrete, MultiBinary
        or Box
    :raises ValueError: if the spaces are of different or other kinds, or can't be mapped
    """
    common: Any = common_space(task_spaces, "action_space")
    if isinstance(common, spaces.MultiBinary) and len(common.shape) == 1:
        # SB3 refuses actions whose shape was given as a tuple.
        common = spaces.MultiBinary(common.shape[0])
    if not isinstance(common, spaces.Box) or all(
        _agree(common, box) for box in task_spaces.values()
    ):
        return common, [_fit(common, space, invalid) for space in task_spaces.values()]
    for name, box in task_spaces.items():
        if box.dtype.kind != "f" or not box.is_bounded():
            raise ValueError(
                "the tasks' `action_space` must be Boxes of floats with finite bounds where these "
                f"differ, got {name!r}: {box}; wrap the tasks (gymnasium.wrappers: "
                "TransformAction, RescaleAction)"
            )
    dtype: Any = common.dtype
    unit = spaces.Box(-1, 1, common.shape, dtype.type)
    return unit, [BoxFit(box, maps=True) for box in task_spaces.values()]


def _fit(common: Space, space: Any, invalid: str) -> ActionFit:
    if space == common:
        return unchanged
    if isinstance(space, spaces.MultiBinary | spaces.Box):
        return BoxFit(space)
    sizes = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    return DiscreteFit(sizes, np.asarray(space.start), invalid, space.dtype)


def _agree(common: spaces.Box, box: spaces.Box) -> bool:
    """Return whether a task's bounds are the common ones, in the dimensions that it has."""
    low = common.low[corner(box)]
    high = common.high[corner(box)]
    return np.array_equal(low, box.low) and np.array_equal(high, box.high)


def choices(space: Any) -> list[int]:
    """Return the number of choices in each dimension; an empty list if the space can't be masked.

    Masks have one entry for each choice. A bit is a choice of two, as in sb3-contrib.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete) and len(space.nvec.shape) == 1:
        return space.nvec.tolist()
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return [2] * space.shape[0]
    return []


class TaskMasks:
    """Which choices of the common action space each task has, and which its own masks allow.

    :param common: the action space of all tasks
    :param task_spaces: each task's own
    :param invalid: what an action that a task lacks becomes, as for `MultiTaskEnv`
    :param hidden: show every choice as valid, since a mask would reveal the task
    """

    def __init__(
        self, common: Space, task_spaces: Sequence[Any], invalid: str, *, hidden: bool
    ) -> None:
        self._common = common
        sizes = choices(common)
        self._own_sizes = [choices(space) for space in task_spaces]
        tables = [_table(sizes, own, invalid) for own in self._own_sizes]
        self._valid = np.stack([valid for valid, _ in tables]) | hidden if sizes else None
        self._deciders = [deciders for _, deciders in tables]

    def of(self, tasks: Any) -> np.ndarray:
        """Return which choices are valid in a task, given by its index, or in an array of tasks.

        :raises TypeError: if the action space has no choices to mask
        """
        if self._valid is None:
            raise TypeError(
                "`action_masks` needs a Discrete or MultiDiscrete (or flat MultiBinary) action "
                f"space, got {self._common}"
            )
        return self._valid[tasks].copy()

    def spread(self, task: int, own: Any) -> np.ndarray:
        """Return which actions of the common space a task's own masks allow.

        :param own: (..., own length); an action that the task lacks, and for which it takes
            another, is allowed if the other one is
        :raises TypeError: if the masks have another length
        """
        length = sum(self._own_sizes[task])
        if np.shape(own)[-1:] != (length,):
            raise TypeError(
                f"`action_masks` must have the shape (..., {length}), got {np.shape(own)}"
            )
        deciders = self._deciders[task]
        return np.where(deciders < 0, True, np.asarray(own, bool)[..., deciders])


def _table(
    common: Sequence[int], own: Sequence[int], invalid: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return which entries of the common mask a task has, and which entry of its own decides each.

    -1 stands for no entry: the task lacks the dimension, or its invalid actions are errors.
    """
    valid = [np.zeros(0, bool)]
    deciders = [np.zeros(0, int)]
    start = 0
    for size, n in zip_longest(common, own, fillvalue=0):
        choice = np.arange(size)
        lacked = choice % max(n, 1) if invalid == "modulo" else 0
        becomes = np.where(choice < n, choice, lacked) + start
        without = (choice >= n) & (invalid == "error" or n == 0)
        deciders.append(np.where(without, -1, becomes))
        valid.append(choice < max(n, 1))  # a dimension that the task lacks has one choice
        start += n
    return np.concatenate(valid), np.concatenate(deciders)
