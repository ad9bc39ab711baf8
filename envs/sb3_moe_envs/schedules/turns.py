"""What cycles and adaptive curricula share: tasks that take turns in an order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from sb3_moe_envs.numbers import optional_whole
from sb3_moe_envs.schedules.base import Schedule, as_list, task_entries, task_index


class Turns(Schedule):
    """Play the tasks in turns; after the last turn, hold its task.

    :param num_cycles: how often to go through all tasks; None: without end
    :param order: the tasks' indices or names in the order to play; None: as they come
    :param shuffle_seed: shuffle the order, the same way for every environment and cycle
    :raises TypeError: if `order` isn't a list
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
        tasks = None if order is None else as_list("order", order, "tasks' indices or names")
        if tasks == []:
            raise ValueError("`order` must hold at least one task, got an empty list")
        self.order = None if tasks is None else task_entries("order", tasks)
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
        """Return how many turns there are in all, or None if they have no end."""
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
    """Return the task that is on, and which turn it is: the next may be the same task's.

    :param schedule: turns are told apart by those of :class:`Turns` alone, for others by the task
    """
    return schedule.task, schedule.turn if isinstance(schedule, Turns) else 0
