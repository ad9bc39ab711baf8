"""How a task id that stands in an observation is read: the one place that knows.

Shapes: B batch, K tasks. Observations are numpy arrays or torch tensors, with or without B.
"""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from sb3_moe.vec_env.observations import is_image, plane_axis

TASK_KEY = "task_id"


def has_task_key(space: spaces.Space[Any]) -> bool:
    """Say whether observations are a Dict with the id under its key."""
    return isinstance(space, spaces.Dict) and TASK_KEY in space.spaces


def check_num_tasks(space: spaces.Space[Any], num_tasks: int | None) -> None:
    """Compare a number of tasks with what observations say of it.

    :param space: of observations; a one-hot or planes of this package's know their tasks
    :param num_tasks: as given, None if it wasn't
    :raises ValueError: if the space has the ids of another number of tasks
    """
    if has_task_key(space):
        known, where = int(space[TASK_KEY].n), "the task_id space"  # type: ignore[index]
    else:
        # A wrapper that makes the space anew leaves the names out, and a plain Box that was told
        # names need not show them.
        names = () if type(space) is spaces.Box else getattr(space, "task_names", ())
        known, where = len(names), "the tasks in the observation space"
    if known and num_tasks not in (None, known):
        raise ValueError(f"`num_tasks` must agree with {where}, {known}, got {num_tasks}")


def strongest(codes: Any) -> Any:
    """Return the ids of (..., K) codes, the largest of each: (...).

    A one-hot that was scaled or normalized, to [1, -1] or whatever, still says the same id.
    """
    return (1 * codes).argmax(-1)  # torch knows no largest of booleans


def as_one_hot(codes: th.Tensor) -> th.Tensor:
    """Return the exact one-hot that (..., K) codes stand for, in their dtype."""
    return F.one_hot(strongest(codes), codes.shape[-1]).to(codes.dtype)


class OneHotBehind:
    """A features extractor whose features are ``[x | one-hot(task)]``; a mark.

    An extractor of the user's own may mean anything by attributes of the same names.

    :cvar tells_task: whether it is the id, and no guess in its place
    """

    tells_task: ClassVar[bool] = True

    num_tasks: int


def one_hot_behind(extractor: nn.Module) -> int:
    """Return the length of the one-hot task id behind an extractor's features, 0 without one."""
    if isinstance(extractor, OneHotBehind) and extractor.tells_task:
        return extractor.num_tasks
    return 0


class Tail:
    """Tell an observation from the id behind it: a one-hot, or a constant plane for each task.

    :param num_tasks: K, the length of the id
    :param axis: where the id stands, counted from the end: -1, or -3 for images with their
        channels first
    :param planes: whether observations are images, and the id planes behind their channels
    """

    def __init__(self, num_tasks: int, *, axis: int = -1, planes: bool = False) -> None:
        self.num_tasks, self.axis, self.planes = num_tasks, axis, planes

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


class TaskIds:
    """Read the task of each observation, wherever the id stands.

    :param space: of observations
    :param num_tasks: K, where the id is a one-hot at the end of a Box, or planes of an image; None
        where a Dict holds it
    :param what: needs the id, for the error
    :raises ValueError: if observations hold no task id
    """

    def __init__(self, space: spaces.Space[Any], num_tasks: int | None, what: str) -> None:
        #: tells an observation from the id behind it; None where a Dict holds the id
        self.tail: Tail | None = None
        check_num_tasks(space, num_tasks)
        if has_task_key(space):
            self.num_tasks = int(space[TASK_KEY].n)  # type: ignore[index]  # a Dict, then
            return
        if num_tasks is None or not isinstance(space, spaces.Box):
            raise ValueError(
                f"{what} needs a task id in the observation, a Dict's `task_id` or a one-hot at "
                f"the end of a Box with num_tasks=N, got num_tasks={num_tasks} and {space}"
            )
        planes = is_image(space)
        if not planes and len(space.shape) > 1:
            raise ValueError(
                f"{what} needs a one-hot at the end of a flat Box, or planes of an image, got "
                f"{space}: flatten it (gymnasium.wrappers.FlattenObservation)"
            )
        if not planes and not num_tasks < space.shape[-1]:
            raise ValueError(f"`num_tasks` must leave something of {space}, got {num_tasks}")
        self.num_tasks = num_tasks
        axis = plane_axis(space) - 3 if planes else -1
        self.tail = Tail(num_tasks, axis=axis, planes=planes)

    def __call__(self, obs: Any) -> Any:
        """Return the task of each observation; a Dict's as it stands, with an axis more or not."""
        return obs[TASK_KEY] if self.tail is None else self.tail.ids(obs)
