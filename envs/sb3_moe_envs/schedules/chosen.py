"""A schedule from any function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sb3_moe_envs.schedules.base import Episode, Schedule, Slots, task_index


class Progress(NamedTuple):
    """What a function that chooses the next task may look at.

    `steps` and `episodes` count, per task, what this environment has played; `last` is the episode
    that has just ended, None before the first; `rng` is seeded with the environment.
    """

    task_names: tuple[str, ...]
    steps: tuple[int, ...]
    episodes: tuple[int, ...]
    last: Episode | None
    rng: np.random.Generator


class Chosen(Schedule):
    """Ask a function for the task of each episode; each environment asks on its own.

    :param choose: takes a `Progress`, returns the index or name of a task; it isn't copied with the
        schedule, nor is the object that it is, or is a method of
    :raises TypeError: if it can't be called
    """

    _state = ("_task", "_steps", "_episodes")
    slots = Slots.OWN

    def __init__(self, choose: Callable[[Progress], int | str]) -> None:
        if not callable(choose):
            raise TypeError(f"`choose` must be a function of a Progress, got {choose!r}")
        self.choose = choose

    def __deepcopy__(self, memo: dict[int, Any]) -> Chosen:
        # Copied with what it belongs to, it would see nothing of what that does from now on.
        memo[id(self.choose)] = self.choose
        copied = type(self).__new__(type(self))
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def __repr__(self) -> str:
        return f"Chosen({getattr(self.choose, '__name__', self.choose)})"

    @property
    def task(self) -> int:
        """The task of the running episode, or of the next one."""
        return self._task

    def end(self, episode: Episode) -> None:
        """Choose the next episode's task."""
        self._steps[episode.task] += episode.steps
        self._episodes[episode.task] += 1
        self._task = self._ask(episode)

    def _start(self, task_names: Sequence[str]) -> None:
        self._names = tuple(task_names)
        self._steps = [0] * self.num_tasks
        self._episodes = [0] * self.num_tasks
        self._task = self._ask(None)

    def _ask(self, last: Episode | None) -> int:
        progress = Progress(self._names, tuple(self._steps), tuple(self._episodes), last, self.rng)
        chosen = self.choose(progress)
        if not isinstance(chosen, int | str | np.integer):
            raise TypeError(f"`choose` must return a task's index or name, got {chosen!r}")
        return task_index(chosen, self._names, "choose")
