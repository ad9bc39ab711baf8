"""How a task id that stands in an observation is read: the one place that knows.

Shapes: B batch, K tasks. Observations are numpy arrays or torch tensors, with or without B.
"""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from torch.nn import functional as F

from sb3_moe.observations.pictures import plane_axis

TASK_KEY = "task_id"


def has_task_key(space: spaces.Space[Any]) -> bool:
    """Say whether observations are a Dict with the id under its key."""
    return isinstance(space, spaces.Dict) and TASK_KEY in space.spaces


def strongest(codes: Any) -> Any:
    """Return the ids of (..., K) codes, the largest of each: (...).

    A one-hot that was scaled or normalised, to [1, -1] or whatever, still says the same id.
    """
    return codes.argmax(-1)


def as_one_hot(codes: th.Tensor) -> th.Tensor:
    """Return the exact one-hot that (..., K) codes stand for, in their dtype."""
    return F.one_hot(strongest(codes), codes.shape[-1]).to(codes.dtype)


class Tail:
    """Tell an observation from the id behind it: a one-hot, or a constant plane for each task.

    :param num_tasks: K, the length of the id
    :param axis: where the id stands, counted from the end: -1, or -3 for pictures with their
        channels first
    :param planes: whether observations are pictures, and the id planes behind their channels
    """

    def __init__(self, num_tasks: int, *, axis: int = -1, planes: bool = False) -> None:
        self.num_tasks, self.axis, self.planes = num_tasks, axis, planes

    @classmethod
    def of_space(cls, space: spaces.Box, num_tasks: int, *, planes: bool) -> Tail:
        """Find where observations show the id.

        :param space: of observations, with the id
        :param num_tasks: K
        :param planes: whether the id is planes of a picture
        """
        if not planes:
            return cls(num_tasks)
        return cls(num_tasks, axis=plane_axis(space, num_tasks) - 3, planes=True)

    def shape_without(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an observation without the id."""
        sizes = list(shape)
        sizes[self.axis] -= self.num_tasks
        return tuple(sizes)

    def split(self, obs: Any) -> tuple[Any, Any]:
        """Return the observation without the id, and the id as it stands."""
        rest = [slice(None)] * (-1 - self.axis)
        width = obs.shape[self.axis] - self.num_tasks
        return obs[(..., slice(width), *rest)], obs[(..., slice(width, None), *rest)]

    def codes(self, obs: Any) -> Any:
        """Return the id as (..., K): of planes the first pixel, since they are constant."""
        _, tail = self.split(obs)
        if not self.planes:
            return tail
        return tail[..., 0, 0, :] if self.axis == -1 else tail[..., 0, 0]

    def ids(self, obs: Any) -> Any:
        """Return the task of each observation."""
        return strongest(self.codes(obs))
