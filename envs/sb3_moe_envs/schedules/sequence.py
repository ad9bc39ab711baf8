"""Tasks in an explicit order, each for its own number of steps."""

from __future__ import annotations

from bisect import bisect_right
from collections import abc
from itertools import accumulate, pairwise
from typing import Any

from sb3_moe_envs.numbers import whole
from sb3_moe_envs.schedules.base import Schedule, as_list, task_entries, task_index


class Sequence(Schedule):
    """Play (task, steps) blocks one after the other; then hold the last task.

    :param blocks: pairs of a task's index or name and a number of environment steps, counted over
        all environments: `[("Breakout", 100_000), ("Asterix", 50_000), ("Breakout", 100_000)]`
    :raises TypeError: if it isn't a list of pairs
    :raises ValueError: if there are no blocks, or one is shorter than a step
    """

    _state = ("_steps",)

    def __init__(self, blocks: abc.Sequence[tuple[int | str, int]]) -> None:
        entries = as_list("blocks", blocks, "(task, steps) pairs")
        pairs = [_pair(index, entry) for index, entry in enumerate(entries)]
        if not pairs:
            raise ValueError("`blocks` must hold at least one (task, steps) pair, got none")
        tasks = task_entries("blocks", [task for task, _ in pairs])
        lengths = [whole(f"blocks[{index}]", steps) for index, (_, steps) in enumerate(pairs)]
        self.blocks = tuple(zip(tasks, lengths, strict=True))
        self._ends = list(accumulate(steps for _, steps in self.blocks))

    def __repr__(self) -> str:
        return f"Sequence({list(self.blocks)})"

    def total_steps(self) -> int:
        """Return the length of the whole schedule in environment steps."""
        return self._ends[-1]

    @property
    def task(self) -> int:
        """The task of the running block."""
        return self._tasks[min(bisect_right(self._ends, self._steps), len(self._tasks) - 1)]

    def count(self, steps: int) -> None:
        """Follow steps."""
        self._steps += steps

    def check_num_envs(self, num_envs: int) -> None:
        """Look whether a step of so many environments begins in each block.

        :raises ValueError: if none does, and the block would be skipped
        """
        for index, (start, end) in enumerate(pairwise([0, *self._ends[:-1]])):
            if -(-start // num_envs) * num_envs >= end:
                raise ValueError(
                    f"`blocks[{index}]` must not lie within a step of num_envs={num_envs}, or it "
                    f"is skipped, got steps {start} to {end}"
                )

    def _start(self, task_names: abc.Sequence[str]) -> None:
        self._tasks = [task_index(task, task_names, "blocks") for task, _ in self.blocks]
        self._steps = 0


def _pair(index: int, entry: Any) -> tuple[Any, Any]:
    if isinstance(entry, str) or not isinstance(entry, abc.Iterable) or len(pair := [*entry]) != 2:
        raise TypeError(f"`blocks[{index}]` must be a (task, steps) pair, got {entry!r}")
    return pair[0], pair[1]
