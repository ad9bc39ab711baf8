"""Schedules in a fixed order: one task after the other, each for a set time."""

from __future__ import annotations

from bisect import bisect_right
from collections import abc
from itertools import accumulate

from sb3_moe_envs.checks import optional_whole, whole
from sb3_moe_envs.schedules.base import Episode, Schedule, Turns, task_index


class Cycle(Turns):
    """Play each task for a while, then the next, and so on for some cycles; then hold the last.

    Steps and episodes are counted over all environments that step together; one that steps alone
    counts its own episodes, and with `num_envs` the steps of all. Boundaries lie at multiples of
    the length of a turn, and a switch comes with the first step that reaches one.

    >>> cycle = Cycle(steps_per_task=1000, num_cycles=2, round_to=256)
    >>> cycle.total_steps(num_tasks=3)
    6144

    :param steps_per_task: length of a turn in environment steps; exclusive with `episodes_per_task`
    :param episodes_per_task: length of a turn in finished episodes
    :param num_cycles: how often to go through all tasks; None: without end
    :param order: the tasks' indices or names in the order to play; None: as they come
    :param shuffle_seed: shuffle the order, the same way for every environment and cycle
    :param round_to: round `steps_per_task` up to a multiple of this, such as
        n_steps * n_envs, so that no rollout straddles a switch
    :raises ValueError: if an argument is out of range
    """

    _state = ("_done",)

    def __init__(
        self,
        steps_per_task: int | None = None,
        *,
        episodes_per_task: int | None = None,
        num_cycles: int | None = 1,
        order: abc.Sequence[int | str] | None = None,
        shuffle_seed: int | None = None,
        round_to: int | None = None,
    ) -> None:
        super().__init__(num_cycles=num_cycles, order=order, shuffle_seed=shuffle_seed)
        if (steps_per_task is None) == (episodes_per_task is None):
            raise ValueError(
                "Cycle takes either `steps_per_task` or `episodes_per_task`, got "
                f"steps_per_task={steps_per_task} and episodes_per_task={episodes_per_task}"
            )
        steps = optional_whole("steps_per_task", steps_per_task)
        self.episodes_per_task = optional_whole("episodes_per_task", episodes_per_task)
        unit = optional_whole("round_to", round_to) or 1
        if round_to is not None and steps is None:
            raise ValueError(f"`round_to` needs `steps_per_task`, got round_to={round_to}")
        self.steps_per_task = None if steps is None else -(-steps // unit) * unit

    def total_steps(self, num_tasks: int) -> int:
        """Return the length of the whole schedule in environment steps.

        :raises ValueError: if it isn't known: turns of episodes, or cycles without end
        """
        num_turns = self.num_turns(num_tasks)
        if self.steps_per_task is None or num_turns is None:
            raise ValueError(f"`total_steps` needs steps_per_task and num_cycles, got {self!r}")
        return self.steps_per_task * num_turns

    @property
    def turn(self) -> int:
        """Which turn this is, counted over all cycles from 0."""
        return self._held(self._done // self._length)

    def count(self, steps: int) -> None:
        """Follow steps, if turns are counted in them."""
        if self.steps_per_task is not None:
            self._done += steps

    def end(self, episode: Episode) -> None:
        """Follow finished episodes, if turns are counted in them."""
        if self.episodes_per_task is not None and episode.finished:
            self._done += 1

    def shortest_turn(self) -> int | None:
        """Return the steps of a turn, if there are several, and they are counted in steps."""
        return None if self.num_turns(self.num_tasks) == 1 else self.steps_per_task

    @property
    def _length(self) -> int:
        length = self.episodes_per_task if self.steps_per_task is None else self.steps_per_task
        assert length is not None
        return length

    def _start(self, task_names: abc.Sequence[str]) -> None:
        super()._start(task_names)
        self._done = 0


class Sequence(Schedule):
    """Play (task, steps) blocks one after the other; then hold the last task.

    :param blocks: pairs of a task's index or name and a number of environment steps, counted over
        all environments: `[("Breakout", 100_000), ("Asterix", 50_000), ("Breakout", 100_000)]`
    :raises ValueError: if there are no blocks, or one is shorter than a step
    """

    _state = ("_steps",)

    def __init__(self, blocks: abc.Sequence[tuple[int | str, int]]) -> None:
        self.blocks = tuple(
            (task, whole(f"blocks[{index}]", steps)) for index, (task, steps) in enumerate(blocks)
        )
        if not self.blocks:
            raise ValueError("`blocks` must hold at least one (task, steps) pair, got none")
        self._ends = list(accumulate(steps for _, steps in self.blocks))

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

    def shortest_turn(self) -> int | None:
        """Return the steps of the shortest block but the last, which is held."""
        return min((steps for _, steps in self.blocks[:-1]), default=None)

    def _start(self, task_names: abc.Sequence[str]) -> None:
        self._tasks = [task_index(task, task_names, "blocks") for task, _ in self.blocks]
        self._steps = 0
