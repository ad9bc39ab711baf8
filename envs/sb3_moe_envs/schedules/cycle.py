"""One task after the other, in cycles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sb3_moe_envs.schedules.base import Episode, Schedule, require_positive, task_index


class Cycle(Schedule):
    """Play each task for a while, then the next, and so on for some cycles; then hold the last.

    Steps and episodes are counted over all environments. Boundaries lie at multiples of the length
    of a turn, and a switch comes with the first step that reaches one.

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
        order: Sequence[int | str] | None = None,
        shuffle_seed: int | None = None,
        round_to: int | None = None,
    ) -> None:
        if (steps_per_task is None) == (episodes_per_task is None):
            raise ValueError(
                "Cycle takes either `steps_per_task` or `episodes_per_task`, got "
                f"steps_per_task={steps_per_task} and episodes_per_task={episodes_per_task}"
            )
        for name, value in (
            ("steps_per_task", steps_per_task),
            ("episodes_per_task", episodes_per_task),
            ("num_cycles", num_cycles),
            ("round_to", round_to),
        ):
            require_positive(name, value)
        if round_to is not None and steps_per_task is None:
            raise ValueError(f"`round_to` needs `steps_per_task`, got round_to={round_to}")
        if order is not None and not order:
            raise ValueError("`order` must hold at least one task, got an empty list")
        unit = round_to or 1
        self.steps_per_task = None if steps_per_task is None else -(-steps_per_task // unit) * unit
        self.episodes_per_task = episodes_per_task
        self.num_cycles = num_cycles
        self.order = None if order is None else tuple(order)
        self.shuffle_seed = shuffle_seed

    def __repr__(self) -> str:
        unit, length = (
            ("steps", self.steps_per_task)
            if self.steps_per_task is not None
            else ("episodes", self.episodes_per_task)
        )
        return f"Cycle({unit}_per_task={length}, num_cycles={self.num_cycles}, order={self.order})"

    def total_steps(self, num_tasks: int) -> int:
        """Return the length of the whole schedule in environment steps.

        :raises ValueError: if it isn't known: turns of episodes, or cycles without end
        """
        if self.steps_per_task is None or self.num_cycles is None:
            raise ValueError(f"`total_steps` needs steps_per_task and num_cycles, got {self!r}")
        turns = num_tasks if self.order is None else len(self.order)
        return self.steps_per_task * turns * self.num_cycles

    def _start(self, task_names: Sequence[str]) -> None:
        order: Sequence[int | str] = range(self.num_tasks) if self.order is None else self.order
        self._order = [task_index(task, task_names, "order") for task in order]
        if self.shuffle_seed is not None:
            np.random.default_rng(self.shuffle_seed).shuffle(self._order)
        self._length: int = self.steps_per_task or self.episodes_per_task or 1
        self._done = 0

    @property
    def turn(self) -> int:
        """Which turn this is, counted over all cycles from 0."""
        turn = self._done // self._length
        return turn if self.num_cycles is None else min(turn, self._last_turn)

    @property
    def _last_turn(self) -> int:
        assert self.num_cycles is not None
        return len(self._order) * self.num_cycles - 1

    @property
    def task(self) -> int:
        """The task whose turn it is."""
        return self._order[self.turn % len(self._order)]

    def count(self, steps: int) -> None:
        """Follow steps, if turns are counted in them."""
        if self.steps_per_task is not None:
            self._done += steps

    def end(self, episode: Episode) -> None:
        """Follow episodes, if turns are counted in them."""
        if self.episodes_per_task is not None and episode.finished:
            self._done += 1
