"""Read the task id from observations, in each form in which they can hold it.

Shapes: B batch, K tasks. Observations are numpy arrays or torch tensors, with or without B.
"""

from typing import Any

from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_moe.vec_env.observations import is_image, plane_axis

TASK_KEY = "task_id"
BELIEF_KEY = "belief"
HISTORY_KEY = "history"
#: keys of what wrappers add to an observation about the past, which nobody normalizes
PAST_KEYS = {BELIEF_KEY, HISTORY_KEY}


def has_task_key(space: spaces.Space) -> bool:
    """Say whether observations are a Dict with a Discrete task id under :data:`TASK_KEY`."""
    return isinstance(space, spaces.Dict) and isinstance(
        space.spaces.get(TASK_KEY), spaces.Discrete
    )


def code_key(space: spaces.Space) -> str | None:
    """Return the key of a Dict's task id, or of the belief in its place; None if there is neither.

    :raises ValueError: if there are both
    """
    told = TASK_KEY if has_task_key(space) else None
    if not isinstance(space, spaces.Dict) or BELIEF_KEY not in space.spaces:
        return told
    if told:
        raise ValueError(
            "MoE policies take a task id or a belief, and this observation has both: hide the id, "
            f"as task_id='info' does, got {space}"
        )
    return BELIEF_KEY


def check_num_tasks(space: spaces.Space, num_tasks: int | None) -> None:
    """Check a number of tasks against the one that an observation space tells, if it tells any.

    :param space: of observations; this package's Boxes with a one-hot or planes hold task names
    :param num_tasks: the number that a user gave, or None
    :raises ValueError: if the space has the ids of another number of tasks
    """
    if has_task_key(space):
        known = int(space[TASK_KEY].n)  # type: ignore[index]
        where = "the task_id space"
    else:
        # A wrapper that makes a new space leaves the names out. A plain Box may have been given
        # names (`write_names`) although its observations hold no id.
        names = () if type(space) is spaces.Box else getattr(space, "task_names", ())
        known = len(names)
        where = "the tasks in the observation space"
    if known and num_tasks not in (None, known):
        raise ValueError(f"`num_tasks` must agree with {where}, {known}, got {num_tasks}")


def strongest(codes: Any) -> Any:
    """Return the ids (...) of codes (..., K): the index of each code's largest entry.

    A one-hot that was scaled or normalized, for example to [1, -1], still gives the same id.
    """
    return (1 * codes).argmax(-1)  # torch has no argmax of booleans


def as_one_hot(codes: Tensor) -> Tensor:
    """Return the exact one-hot that (..., K) codes stand for, in their dtype."""
    return F.one_hot(strongest(codes), codes.shape[-1]).to(codes.dtype)


class EndsInOneHot:
    """Base class that marks an extractor whose features are ``[x | one-hot(task)]``.

    The attributes alone don't mark it: a user's own extractor may use the same names for something
    else. If ``tells_task`` is False, the last features are a belief in place of the task's id.
    """

    tells_task: bool
    num_tasks: int


def one_hot_length(extractor: nn.Module) -> int:
    """Return the length of the one-hot task id at the end of the features; 0 without one."""
    if isinstance(extractor, EndsInOneHot) and extractor.tells_task:
        return extractor.num_tasks
    return 0


class Tail:
    """Split observations from the id behind them: a one-hot, or a constant plane for each task.

    :param num_tasks: K, the length of the id
    :param axis: the axis at whose end the id stands, counted from the last: -1, or -3 for images
        with their channels first
    :param planes: whether observations are images, with the id as planes behind their channels
    """

    def __init__(self, num_tasks: int, *, axis: int = -1, planes: bool = False) -> None:
        self.num_tasks = num_tasks
        self.axis = axis
        self.planes = planes

    def split(self, obs: Any) -> tuple[Any, Any]:
        """Return the observation without the id, and the one-hot or planes of the id."""
        rest = [slice(None)] * (-1 - self.axis)
        width = obs.shape[self.axis] - self.num_tasks
        without = obs[(..., slice(width), *rest)]
        return without, obs[(..., slice(width, None), *rest)]

    def codes(self, obs: Any) -> Any:
        """Return the id as (..., K): the first pixel of planes, since these are constant."""
        _, tail = self.split(obs)
        return tail.swapaxes(self.axis, -1)[..., 0, 0, :] if self.planes else tail

    def ids(self, obs: Any) -> Any:
        """Return the task of each observation."""
        return strongest(self.codes(obs))


class TaskIds:
    """Read the task of each observation, wherever the id stands.

    :param space: of observations
    :param num_tasks: K, if the id is a one-hot at the end of a Box, or planes of an image; None if
        a Dict holds it
    :param what: what needs the id, for the error message
    :raises ValueError: if observations hold no task id
    """

    def __init__(self, space: spaces.Space, num_tasks: int | None, what: str) -> None:
        #: splits an observation from the id behind it; None if a Dict holds the id
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
        """Return the task of each observation; a Dict's entry is returned as it is.

        Observations from a buffer have an extra axis there.
        """
        return obs[TASK_KEY] if self.tail is None else self.tail.ids(obs)
