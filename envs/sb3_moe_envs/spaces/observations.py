"""One observation space for all tasks: each task's observation in a corner, zeros elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

_CURES = {
    "observation_space": "wrap the tasks so that they agree (gymnasium.wrappers: FilterObservation "
    "drops what agents can't read, such as texts; FlattenObservation, TransformObservation)",
    "action_space": "wrap the tasks so that they agree (gymnasium.wrappers.TransformAction)",
}


class ArrayFit:
    """Write a task's array into the corner of a larger one, with discrete values counted from 0.

    :param common: the common space
    :param space: of the task
    """

    def __init__(self, common: Space, space: Space) -> None:
        self.region = corner(space)
        #: whether the task's space is the common one
        self.same = space == common
        start = getattr(space, "start", 0)
        #: what a discrete space counts from; None: 0
        self.start = None if self.same or not np.any(start) else start

    def write(self, out: Any, rows: Any, obs: Any) -> None:
        """Write a batch of observations into rows (a slice or indices) that hold zeros."""
        out[(rows, *self.region)] = obs if self.start is None else obs - self.start

    def read(self, array: Any) -> Any:
        """Return the task's own array, or a batch of them, from one of the common space."""
        part = array[self.region]
        return part if self.start is None else part + self.start


class DictFit:
    """Fit each entry of a Dict; an entry that the task lacks stays zero.

    :param common: the common space
    :param space: of the task
    """

    same = False

    def __init__(self, common: Any, space: spaces.Dict) -> None:
        self.parts = {key: fit_of(common[key], part) for key, part in space.spaces.items()}

    def write(self, out: Any, rows: Any, obs: Any) -> None:
        """Write a batch of observations into rows (a slice or indices) that hold zeros."""
        for key, part in self.parts.items():
            part.write(out[key], rows, obs[key])


ObservationFit = ArrayFit | DictFit


def fit_of(common: Space, space: Space) -> ObservationFit:
    """Return how a task's observations go into those of the common space."""
    return DictFit(common, space) if isinstance(space, spaces.Dict) else ArrayFit(common, space)


def common_observations(task_spaces: Mapping[str, Space], *, optional: bool = False) -> Space:
    """Return the smallest space that holds every task's observations; a Dict has all their keys.

    :param task_spaces: by the tasks' names, all Box, Discrete, MultiDiscrete, MultiBinary, or all
        Dict of these
    :param optional: whether the space must also hold zeros, for tasks without this observation
    :raises ValueError: if the spaces are of different kinds or of another kind
    """
    dicts = {
        name: space.spaces for name, space in task_spaces.items() if isinstance(space, spaces.Dict)
    }
    if len(dicts) < len(task_spaces):
        return common_space(task_spaces, "observation_space", optional=optional)
    common: dict[str, Space] = {}
    for key in dict.fromkeys(key for parts in dicts.values() for key in parts):
        own = {f"{name}.{key}": parts[key] for name, parts in dicts.items() if key in parts}
        common[key] = common_observations(own, optional=optional or len(own) < len(dicts))
    return spaces.Dict(common)


def row_of(batch: Any, row: int) -> Any:
    """Return one row of a batch of observations (an array, a dict of batches, or a list)."""
    if isinstance(batch, dict):
        return {key: row_of(value, row) for key, value in batch.items()}
    return batch[row]


def corner(array: Any) -> Any:
    """Return the index of an array's place in a larger array, or in each row of a batch of them.

    :param array: or a space
    """
    return (Ellipsis, *(slice(size) for size in array.shape))


def common_space(
    spaces_by_name: Mapping[str, Space], argument: str, *, optional: bool = False
) -> Space:
    """Return the smallest space that holds every task's; discrete ones count from 0, as in SB3.

    :param spaces_by_name: by the tasks' names
    :param optional: whether the space must also hold zeros, for tasks without this observation
    :raises ValueError: if the spaces can't be padded to a common one
    """
    task_spaces = list(spaces_by_name.values())
    first = task_spaces[0]
    kinds = [kind for kind in _PADDING if all(isinstance(space, kind) for space in task_spaces)]
    if not kinds or len({len(space.shape or ()) for space in task_spaces}) > 1:
        dicts = ", or Dict of these" if argument == "observation_space" else ""
        raise ValueError(
            f"the tasks' `{argument}` must be of one kind (Box, Discrete, MultiDiscrete, "
            f"MultiBinary{dicts}) and one number of dimensions, got "
            f"{spaces_by_name}; {_CURES[argument]}"
        )
    equal = all(space == first for space in task_spaces)
    if equal and not optional and not np.any(getattr(first, "start", 0)):
        return copy.deepcopy(first)  # its generator is the task's own
    images = [space for space in task_spaces if len(space.shape or ()) == 3 and is_image(space)]
    if len({channel_axis(image.shape or (), is_image=True) for image in images}) > 1:
        raise ValueError(
            "the tasks' images must all have their channels first, or all last, got "
            f"{spaces_by_name}; gymnasium.wrappers.TransformObservation changes it"
        )
    return _PADDING[kinds[0]](task_spaces, optional)


def _largest_shape(task_spaces: Sequence[Any]) -> tuple[int, ...]:
    return tuple(np.max([space.shape for space in task_spaces], axis=0).tolist())


def _pad_boxes(task_spaces: Sequence[Any], optional: bool) -> spaces.Box:
    shape = _largest_shape(task_spaces)
    dtype = np.result_type(*[space.dtype for space in task_spaces])
    if all(is_image(space) for space in task_spaces):
        # SB3 would not recognize an image whose bounds were 0 in a corner that no task fills.
        return spaces.Box(0, 255, shape, np.uint8)
    # Entries that a task lacks stay zero, so the bounds must include 0.
    low, high = np.zeros((2, len(task_spaces) + optional, *shape), dtype)
    for index, space in enumerate(task_spaces):
        region = (index, *corner(space))
        low[region] = space.low
        high[region] = space.high
    return spaces.Box(low.min(axis=0), high.max(axis=0), shape, dtype.type)


def is_image(box: Any) -> bool:
    """Return whether a Box has the type and bounds of SB3's images: uint8 in [0, 255]."""
    if box.dtype != np.uint8:
        return False
    return bool(not box.low.any() and (box.high == 255).all())


def channel_axis(shape: Sequence[int], *, is_image: bool) -> int:
    """Return the axis of an image's channels: the first if it is the shortest, else the last.

    If another axis is equally short, the first is taken only for what SB3 takes for images, uint8
    in [0, 255], as SB3 does. Policies look for the task's channels by the same rule
    (`sb3_moe.vec_env`).
    """
    first, *others = shape
    return 0 if first < min(others) or (is_image and first == min(others)) else 2


def _pad_multi_discrete(task_spaces: Sequence[Any], _: bool) -> spaces.MultiDiscrete:
    shape = _largest_shape(task_spaces)
    sizes = np.ones((len(task_spaces), *shape), np.int64)
    for index, space in enumerate(task_spaces):
        sizes[(index, *corner(space))] = space.nvec
    return spaces.MultiDiscrete(sizes.max(axis=0))


_PADDING: dict[type[Space], Any] = {
    spaces.Box: _pad_boxes,
    spaces.Discrete: lambda own, _: spaces.Discrete(max(int(space.n) for space in own)),
    spaces.MultiDiscrete: _pad_multi_discrete,
    spaces.MultiBinary: lambda own, _: spaces.MultiBinary(_largest_shape(own)),
}
