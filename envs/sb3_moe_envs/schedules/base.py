"""The base of all schedules: which task to play, given what was played."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from sb3_moe_envs.checks import optional_whole, whole


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

    def __repr__(self) -> str:
        arguments = inspect.signature(type(self)).parameters.values()
        given = {each.name: getattr(self, each.name, each.default) for each in arguments}
        shown = [f"{a.name}={given[a.name]!r}" for a in arguments if given[a.name] != a.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    @abstractmethod
    def task(self) -> int:
        """The task to play now."""

    def count(self, steps: int) -> None:  # noqa: B027 - not every schedule counts steps
        """Follow `steps` environment steps."""

    def end(self, episode: Episode) -> None:  # noqa: B027 - not every schedule counts episodes
        """Follow the end of an episode."""

    def shortest_turn(self) -> int | None:
        """Return the steps of the shortest turn that another follows, None if that isn't known."""
        return None

    def check_num_envs(self, num_envs: int) -> None:
        """Look whether each turn is as long as a step of so many environments.

        :raises ValueError: if one is shorter, since it could be skipped
        """
        shortest = self.shortest_turn()
        if shortest is not None and shortest < num_envs:
            raise ValueError(
                f"a turn of `schedule` must be at least as long as a step of num_envs={num_envs}, "
                f"or it is skipped, got {self!r}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        state = {name: copy.deepcopy(getattr(self, name)) for name in self._state}
        return state | {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same kind of schedule over as many tasks."""
        for name in self._state:
            setattr(self, name, copy.deepcopy(state[name]))
        self.rng.bit_generator.state = state["rng"]


class Turns(Schedule):
    """Play the tasks in turns; after the last turn, hold its task.

    :param num_cycles: how often to go through all tasks; None: without end
    :param order: the tasks' indices or names in the order to play; None: as they come
    :param shuffle_seed: shuffle the order, the same way for every environment and cycle
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self,
        *,
        num_cycles: int | None = 1,
        order: Sequence[int | str] | None = None,
        shuffle_seed: int | None = None,
    ) -> None:
        self.num_cycles = optional_whole("num_cycles", num_cycles)
        self.order = None if order is None else tuple(order)
        if self.order == ():
            raise ValueError("`order` must hold at least one task, got an empty list")
        self.shuffle_seed = optional_whole("shuffle_seed", shuffle_seed, minimum=0)

    @property
    @abstractmethod
    def turn(self) -> int:
        """Which turn this is, counted over all cycles from 0."""

    @property
    def task(self) -> int:
        """The task whose turn it is."""
        return self._order[self.turn % len(self._order)]

    def num_turns(self, num_tasks: int) -> int | None:
        """Return the total number of turns, or None if the schedule never ends."""
        per_cycle = num_tasks if self.order is None else len(self.order)
        return None if self.num_cycles is None else per_cycle * self.num_cycles

    def _start(self, task_names: Sequence[str]) -> None:
        order: Sequence[int | str] = range(self.num_tasks) if self.order is None else self.order
        self._order = [task_index(task, task_names, "order") for task in order]
        if self.shuffle_seed is not None:
            np.random.default_rng(self.shuffle_seed).shuffle(self._order)

    def _held(self, turn: int) -> int:
        """Stay within the last turn."""
        num_turns = self.num_turns(self.num_tasks)
        return turn if num_turns is None else min(turn, num_turns - 1)


def turn_of(schedule: Schedule) -> tuple[int, int]:
    """Return the task to play and the number of its turn: the next may be the same task's.

    :param schedule: only a :class:`Turns` counts its turns; others are distinguished by the task
    """
    return schedule.task, schedule.turn if isinstance(schedule, Turns) else 0


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
