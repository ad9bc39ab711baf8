"""What an agent sees of several tasks: one observation space, one action space, one task id."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector.utils import create_empty_array

from sb3_moe_envs.methods import GOALS
from sb3_moe_envs.spaces.actions import TaskMasks, pad_actions
from sb3_moe_envs.spaces.observations import (
    channel_axis,
    common_observations,
    fit_of,
    is_image,
    row_of,
)


class _Named(Space):
    """A space that knows the tasks' names.

    Spaces for the same tasks in another order are not equal, so SB3 refuses them for a trained
    agent, which would take each task for another. Spaces for other tasks are equal, as an agent may
    go on with new tasks.

    :param task_names: of all tasks, by id; also the attribute that policies and callbacks read
    """

    def __init__(self, *args: Any, task_names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task_names = tuple(task_names)

    def __eq__(self, other: object) -> bool:
        """Compare the spaces themselves, and the order of the tasks."""
        names = self.task_names
        others = tuple(getattr(other, "task_names", names))
        is_reordered = names != others and sorted(names) == sorted(others)
        return super().__eq__(other) and not is_reordered

    def __repr__(self) -> str:
        return f"{super().__repr__()} of {list(self.task_names)}"


class NamedId(_Named, spaces.Discrete):
    """The id of a task."""


class NamedBox(_Named, spaces.Box):
    """A Box of numbers that include a task's id."""


class Hidden:
    """Leave observations as they are (`info` and `none`).

    :param space: of observations without the id, as for the other encoders
    :param names: of the tasks
    """

    def __init__(self, space: Space, names: Sequence[str]) -> None:
        self.space = space

    def add_id(self, obs: Any, tasks: Any) -> Any:
        """Return one observation, or a batch, without an id."""
        return obs


class AsDict(Hidden):
    """Show `{"obs": ..., "task_id": ...}`; a Dict observation gets `"task_id"` beside its keys."""

    def __init__(self, space: Space, names: Sequence[str]) -> None:
        self._flat = isinstance(space, spaces.Dict)
        inner = space.spaces if isinstance(space, spaces.Dict) else {"obs": space}
        if "task_id" in inner:
            raise ValueError(
                "`task_id`='dict' needs tasks without a key of that name, got an observation space "
                f"with the keys {sorted(inner)}"
            )
        self.space = spaces.Dict({**inner, "task_id": NamedId(len(names), task_names=names)})

    def add_id(self, obs: Any, tasks: Any) -> Any:
        """Add a task's id to one observation, or each row's to a batch."""
        return {**(obs if self._flat else {"obs": obs}), "task_id": tasks}


class _Appended(Hidden):
    """Append a code of the id on one axis of a Box."""

    def __init__(self, box: Any, names: Sequence[str], codes: np.ndarray, axis: int) -> None:
        self._codes = codes
        self._axis = axis - box.low.ndim  # from the end, for batches too
        self.space = NamedBox(
            np.concatenate([box.low, np.zeros_like(codes[0])], axis),
            np.concatenate([box.high, codes.max(axis=0)], axis),
            dtype=box.dtype.type,
            task_names=names,
        )

    def add_id(self, obs: Any, tasks: Any) -> Any:
        """Add a task's id to one observation, or each row's to a batch."""
        return np.concatenate([obs, self._codes[tasks]], axis=self._axis)


class OneHot(_Appended):
    """Append a one-hot of the id to a flat Box."""

    def __init__(self, space: Space, names: Sequence[str]) -> None:
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"`task_id`='onehot' needs a flat Box, got {space}")
        super().__init__(space, names, np.eye(len(names), dtype=space.dtype), 0)


class Channels(_Appended):
    """Append one constant channel per task to an image: the task's own at the maximum, others 0.

    :raises ValueError: if the space isn't an image, or the new shape would not tell which axis is
        that of the channels
    """

    def __init__(self, space: Space, names: Sequence[str]) -> None:
        if not isinstance(space, spaces.Box) or len(space.shape) != 3:
            raise ValueError(
                f"`task_id`='channels' needs an image Box (three dimensions), got {space}"
            )
        num_tasks = len(names)
        image = is_image(space)
        axis = channel_axis(space.shape, is_image=image)
        # An unbounded image has no maximum; 1 is as good as any other value.
        top = space.high.max() if np.isfinite(space.high).all() else 1
        shape = [*space.shape]
        shape[axis] = num_tasks
        codes = np.zeros((num_tasks, *shape), space.dtype)
        for task, planes in enumerate(codes):
            np.moveaxis(planes, axis, 0)[task] = top
        super().__init__(space, names, codes, axis)
        *sides, depth = seen = self.space.shape or ()
        # SB3 transposes images for a policy, so that the channels are first.
        is_found_first = axis == 0 or not image or depth <= min(sides)
        if not is_found_first or channel_axis(seen, is_image=image) != axis:
            raise ValueError(
                f"`task_id`='channels' needs images whose shape, with a channel for each of "
                f"{num_tasks} tasks {seen}, tells which axis holds the channels: use 'dict', got "
                f"{space}"
            )


ENCODERS: dict[str, type[Hidden]] = {
    "dict": AsDict,
    "onehot": OneHot,
    "channels": Channels,
    "info": Hidden,
    "none": Hidden,
}

OPTIONS = {
    "task_id": tuple(ENCODERS),
    "invalid_action": ("noop", "modulo", "error"),
}


class Interface:
    """Translate between the common spaces and each task's own.

    :param observation_spaces: one per task
    :param action_spaces: one per task
    :param names: the tasks' names
    :param task_id: `"dict"`, `"onehot"`, `"channels"`, `"info"` or `"none"`
    :param invalid_action: what an action that the task lacks does: `"noop"` (the task's first
        action), `"modulo"` (wraps around) or `"error"`
    :raises ValueError: if the spaces don't fit
    """

    def __init__(
        self,
        observation_spaces: Sequence[Space],
        action_spaces: Sequence[Space],
        names: Sequence[str],
        *,
        task_id: str = "dict",
        invalid_action: str = "noop",
    ) -> None:
        self._common = common_observations(dict(zip(names, observation_spaces, strict=True)))
        self._observations = [fit_of(self._common, space) for space in observation_spaces]
        self._encoder = ENCODERS[task_id](self._common, names)
        self.observation_space = self._encoder.space
        by_name = dict(zip(names, action_spaces, strict=True))
        self.action_space, self._actions = pad_actions(by_name, invalid_action)
        self.masks = TaskMasks(
            self.action_space, action_spaces, invalid_action, hidden=task_id == "none"
        )

    def encode(self, task: int, obs: Any) -> Any:
        """Turn a task's observation into the common one."""
        fit = self._observations[task]
        if not fit.same:
            out: Any = create_empty_array(self._common, 1)
            fit.write(out, 0, obs)
            obs = row_of(out, 0)
        return self._encoder.add_id(obs, np.int64(task))

    def encode_batch(self, parts: Sequence[tuple[int, Any, Any]], tasks_B: np.ndarray) -> Any:
        """Join batches of the tasks' observations into one of common observations.

        :param parts: (task, rows, observations of these rows), together for all rows
        :param tasks_B: (B,) the task of each row
        """
        task, _, out = parts[0]
        if len(parts) > 1 or not self._observations[task].same:
            out = create_empty_array(self._common, len(tasks_B))
            for task, rows, obs in parts:
                self._observations[task].write(out, rows, obs)
        return self._encoder.add_id(out, tasks_B.copy())

    def goals_of(self, task: int, goals: Sequence[Any]) -> list[Any]:
        """Turn achieved and desired goals of the common space, or batches, into a task's own."""
        parts: Any = self._observations[task]
        return [parts.parts[key].read(goal) for key, goal in zip(GOALS, goals, strict=True)]

    def decode(self, task: int, action: Any) -> Any:
        """Turn an action of the common space, or a batch of them, into a task's own."""
        return self._actions[task](action)


def check_options(options: dict[str, str]) -> None:
    """Raise if an option of :class:`Interface` has an unknown name or value."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise TypeError(f"unexpected argument {name!r}: there are {list(OPTIONS)}")
        if value not in OPTIONS[name]:
            raise ValueError(f"`{name}` must be one of {list(OPTIONS[name])}, got {value!r}")
