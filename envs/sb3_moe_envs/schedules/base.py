"""What every schedule does: say which task to play, and follow what was played."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from sb3_moe_envs.numbers import whole


class Slots(Enum):
    """How a schedule uses the slots of a vector environment."""

    SHARED = "each task keeps a fixed share of the slots"
    TOGETHER = "all slots play the same task"
    OWN = "each slot follows a schedule of its own"


class Episode(NamedTuple):
    """An episode that ended, or (`finished` False) was left by a reset."""

    task: int
    steps: int
    reward: float
    success: float = float("nan")
    finished: bool = True


class Schedule(ABC):
    """Decide which task an environment plays; the sequence follows from (seed, index).

    `start` rewinds it, `count` follows steps (over all environments), `end` follows episodes, and
    `task` is the task to play now. If `count` changes `task`, the running episode is truncated.
    """

    #: the attributes that make up the state, besides the random stream
    _state: tuple[str, ...] = ()
    slots: Slots = Slots.TOGETHER
    num_tasks: int = 0
    env_index: int = 0

    def start(
        self,
        task_names: Sequence[str],
        *,
        seed: int | np.random.SeedSequence | None = None,
        env_index: int = 0,
    ) -> None:
        """Begin from the first task.

        :param task_names: the tasks' names, in order
        :param seed: of the random stream of this schedule
        :param env_index: which environment this is, among those that play the same tasks
        """
        self.num_tasks = len(task_names)
        self.env_index = env_index
        self.rng = np.random.default_rng(seed)
        self._start(task_names)

    @abstractmethod
    def _start(self, task_names: Sequence[str]) -> None:
        """Check the tasks and set the state to the beginning."""

    @property
    @abstractmethod
    def task(self) -> int:
        """The task to play now."""

    def count(self, steps: int) -> None:  # noqa: B027 - not every schedule counts steps
        """Follow `steps` environment steps."""

    def end(self, episode: Episode) -> None:  # noqa: B027 - not every schedule counts episodes
        """Follow the end of an episode."""

    def check_num_envs(self, num_envs: int) -> None:  # noqa: B027 - not every schedule has turns
        """Look whether every turn can be played by so many environments that step at once.

        :raises ValueError: if one would begin and end within a step
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        state = {name: copy.deepcopy(getattr(self, name)) for name in self._state}
        return state | {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same kind of schedule over as many tasks.

        :raises ValueError: if the state is of another kind of schedule
        """
        expected = {*self._state, "rng"}
        if set(state) != expected:
            raise ValueError(
                f"`state` must be that of a {type(self).__name__}, with {sorted(expected)}, "
                f"got {sorted(state)}"
            )
        for name in self._state:
            setattr(self, name, copy.deepcopy(state[name]))
        self.rng.bit_generator.state = state["rng"]


def as_list(argument: str, entries: Any, what: str) -> list[Any]:
    """Return what was given one after the other.

    :param argument: its name
    :param entries: what was given
    :param what: what it should hold
    :raises TypeError: if it isn't a list, or something like one
    """
    if isinstance(entries, str | Mapping) or not isinstance(entries, Iterable):
        raise TypeError(f"`{argument}` must be a list of {what}, got {entries!r}")
    return list(entries)


def task_entries(argument: str, tasks: Sequence[Any]) -> tuple[int | str, ...]:
    """Check tasks' names and indices before it is known which tasks there are.

    :raises ValueError: if one can be neither
    """
    return tuple(t if isinstance(t, str) else whole(argument, t, minimum=None) for t in tasks)


def task_index(task: int | str | np.integer[Any], task_names: Sequence[str], argument: str) -> int:
    """Turn a task's name or index into its index.

    :raises ValueError: if there is no such task
    """
    if isinstance(task, str):
        if task not in task_names:
            raise ValueError(f"`{argument}` must name a task of {list(task_names)}, got {task!r}")
        return list(task_names).index(task)
    index = whole(argument, task, minimum=None)
    if not 0 <= index < len(task_names):
        raise ValueError(f"`{argument}` must be in [0, num_tasks={len(task_names)}), got {task}")
    return index
