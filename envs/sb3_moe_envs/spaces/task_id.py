"""How an observation says which task it comes from: dict, onehot, channels, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.spaces.named import NamedBox, NamedId


class TaskIdEncoder(Protocol):
    """Add the task id to observations."""

    @property
    def space(self) -> Space[Any]:
        """What observations with the id are of."""

    def single(self, obs: Any, task: int) -> Any:
        """Add the id to one observation."""

    def batch(self, obs: Any, tasks_B: np.ndarray) -> Any:
        """Add the ids to a batch of observations."""


class Hidden:
    """Leave observations as they are (`info` and `none`)."""

    def __init__(self, space: Space[Any], names: Sequence[str]) -> None:
        self.space = space

    def single(self, obs: Any, task: int) -> Any:
        """Return the observation."""
        return obs

    def batch(self, obs: Any, tasks_B: np.ndarray) -> Any:
        """Return the observations."""
        return obs


class AsDict:
    """`{"obs": ..., "task_id": ...}`; a Dict observation gets the key beside its own."""

    def __init__(self, space: Space[Any], names: Sequence[str]) -> None:
        self._flat = isinstance(space, spaces.Dict)
        inner = dict(space.spaces) if isinstance(space, spaces.Dict) else {"obs": space}
        if "task_id" in inner:
            raise ValueError(
                "`task_id`='dict' needs tasks without a key of that name, got an observation space "
                f"with the keys {sorted(inner)}"
            )
        self.space = spaces.Dict({**inner, "task_id": NamedId(names)})

    def single(self, obs: Any, task: int) -> Any:
        """Add the id to one observation."""
        inner = obs if self._flat else {"obs": obs}
        return {**inner, "task_id": np.int64(task)}

    def batch(self, obs: Any, tasks_B: np.ndarray) -> Any:
        """Add the ids to a batch of observations."""
        inner = obs if self._flat else {"obs": obs}
        return {**inner, "task_id": tasks_B.copy()}


class OneHot:
    """Append a one-hot of the id to a flat Box."""

    def __init__(self, space: Space[Any], names: Sequence[str]) -> None:
        box = _require_box(space, 1, "onehot")
        self._codes = np.eye(len(names), dtype=box.dtype)
        self.space = NamedBox(
            np.concatenate([box.low, self._codes.min(axis=0) * 0]),
            np.concatenate([box.high, self._codes.max(axis=0)]),
            box.dtype.type,
            names,
        )

    def single(self, obs: Any, task: int) -> Any:
        """Add the id to one observation."""
        return np.concatenate([obs, self._codes[task]])

    def batch(self, obs: Any, tasks_B: np.ndarray) -> Any:
        """Add the ids to a batch of observations."""
        return np.concatenate([obs, self._codes[tasks_B]], axis=1)


class Channels:
    """Append one constant channel per task to an image: the task's own at the maximum, others 0.

    :raises ValueError: if it isn't an image, or its shape would not tell where the id is
    """

    def __init__(self, space: Space[Any], names: Sequence[str]) -> None:
        box = _require_box(space, 3, "channels")
        self._axis, num_tasks = channel_axis(box), len(names)
        shape = list(box.shape)
        shape[self._axis] = num_tasks
        index = [1, 1, 1]
        index[self._axis] = num_tasks
        # An unbounded image has no maximum; 1 is as good as any other value.
        top = box.high.max() if np.isfinite(box.high).all() else box.dtype.type(1)
        eye = np.eye(num_tasks, dtype=box.dtype) * top
        self._codes = np.stack([np.broadcast_to(row.reshape(index), shape) for row in eye])
        self.space = NamedBox(
            np.concatenate([box.low, np.zeros(shape, box.dtype)], axis=self._axis),
            np.concatenate([box.high, self._codes.max(axis=0)], axis=self._axis),
            box.dtype.type,
            names,
        )
        if not _is_found(self.space.shape, self._axis, num_tasks, is_image=_is_image(box)):
            raise ValueError(
                f"`task_id`='channels' needs images whose channels can be told from height and "
                f"width with one more for each of {num_tasks} tasks, that is in the shape "
                f"{self.space.shape}; use 'dict', got {space}"
            )

    def single(self, obs: Any, task: int) -> Any:
        """Add the id to one observation."""
        return np.concatenate([obs, self._codes[task]], axis=self._axis)

    def batch(self, obs: Any, tasks_B: np.ndarray) -> Any:
        """Add the ids to a batch of observations."""
        return np.concatenate([obs, self._codes[tasks_B]], axis=self._axis + 1)


def channel_axis(box: spaces.Box) -> int:
    """Return where an image keeps its channels: on the first axis if it is the shortest, else last.

    Where another axis is as short, the first counts only in what SB3 takes for images, uint8 in
    [0, 255], as in SB3.
    """
    return _shortest_axis(box.shape, ties_first=_is_image(box))


def plane_axis(shape: tuple[int, ...], num_tasks: int, *, is_image: bool) -> int:
    """Return where whoever is shown no more than the space looks for the planes.

    They are on the axis of the channels without them; where neither axis fits, or both, on that of
    the channels with them.

    :param shape: of an image, planes included
    :param num_tasks: how many planes
    :param is_image: whether SB3 takes it for an image
    """
    fitting = []
    for axis in (0, 2):
        sizes = list(shape)
        sizes[axis] -= num_tasks
        if sizes[axis] > 0 and _shortest_axis(sizes, ties_first=is_image) == axis:
            fitting.append(axis)
    return fitting[0] if len(fitting) == 1 else _shortest_axis(shape, ties_first=is_image)


def _is_found(shape: tuple[int, ...], axis: int, num_tasks: int, *, is_image: bool) -> bool:
    """Say whether planes are looked for where they are, in what SB3 makes of an image too."""
    if plane_axis(shape, num_tasks, is_image=is_image) != axis:
        return False
    if not is_image or _shortest_axis(shape, ties_first=True) == 0:
        return True
    # SB3 hands it to a policy with the last axis first.
    height, width, channels = shape
    return axis == 2 and plane_axis((channels, height, width), num_tasks, is_image=True) == 0


def _shortest_axis(shape: Sequence[int], *, ties_first: bool) -> int:
    first, *others = shape
    return 0 if first < min(others) or (ties_first and first == min(others)) else 2


def _is_image(box: spaces.Box) -> bool:
    return box.dtype == np.uint8 and bool((box.low == 0).all() and (box.high == 255).all())


def _require_box(space: Space[Any], ndim: int, mode: str) -> Any:
    if isinstance(space, spaces.Box) and len(space.shape) == ndim:
        return space
    kind = "a flat Box" if ndim == 1 else "an image Box (three dimensions)"
    raise ValueError(f"`task_id`={mode!r} needs {kind}, got {space}")


ENCODERS: dict[str, Callable[[Space[Any], Sequence[str]], TaskIdEncoder]] = {
    "dict": AsDict,
    "onehot": OneHot,
    "channels": Channels,
    "info": Hidden,
    "none": Hidden,
}
