"""A curriculum that goes to the task that is being learned, or forgotten, the fastest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from sb3_moe_envs.numbers import finite
from sb3_moe_envs.schedules.adaptive import Adaptive, mean

MEASURES = ("return", "success")


class LearningProgress(Adaptive):
    """Play each task until a rule holds, then the one with the most learning progress.

    Progress is by how much the mean over a turn's last episodes differs from that of the same
    task's turn before, whichever way: what is being forgotten is learned again. Differences of
    returns are shares of the largest mean return that the task has had, so that tasks of other
    scales compare. Each task has two turns first, in order; then, with the probability `explore`,
    a task is drawn in place of the best one, since progress may begin where there was none (as in
    "Teacher-Student Curriculum Learning", arXiv 1707.00183).

    :param rule: when a turn ends, as of `Adaptive`, such as `"episodes>=20"`
    :param by: whose progress counts, `"return"` or `"success"`
    :param explore: share of the turns whose task is drawn, in [0, 1]
    :param window: over how many of a turn's last episodes to average
    :param num_cycles: how many times as many turns as tasks, then the last is held; None: no end
    :raises ValueError: if the rule can't be read or an argument is out of range
    """

    _place: int
    _means: list[float]
    _largest: list[float]
    _progress: list[float]
    _state = (*Adaptive._state, "_place", "_means", "_largest", "_progress")

    def __init__(
        self,
        rule: str,
        *,
        by: Literal["return", "success"] = "return",
        explore: float = 0.2,
        window: int = 20,
        num_cycles: int | None = None,
    ) -> None:
        super().__init__(rule, window=window, num_cycles=num_cycles)
        if by not in MEASURES:
            raise ValueError(f"`by` must be one of {list(MEASURES)}, got {by!r}")
        if not 0 <= finite("explore", explore) <= 1:
            raise ValueError(f"`explore` must be in [0, 1], got {explore}")
        self.by, self.explore = by, float(explore)

    def __repr__(self) -> str:
        return (
            f"LearningProgress({self.rule!r}, by={self.by!r}, explore={self.explore:g}, "
            f"window={self.window}, num_cycles={self.num_cycles})"
        )

    @property
    def task(self) -> int:
        """The task whose turn it is."""
        return self._place

    def _start(self, task_names: Sequence[str]) -> None:
        super()._start(task_names)
        unknown = [math.nan] * self.num_tasks
        self._means, self._progress = unknown, list(unknown)
        self._place, self._largest = 0, [0.0] * self.num_tasks

    def _move_on(self) -> None:
        before = self._turn
        seen = self._returns if self.by == "return" else self._successes
        super()._move_on()
        if self._turn > before:
            if seen:
                self._learn(mean(seen))
            self._place = self._next()

    def _learn(self, mean: float) -> None:
        """Compare the turn that ends with the same task's before."""
        task = self._place
        before = self._means[task]
        if self.by == "success" and math.isnan(mean):  # a silent turn is all failures
            mean = 0.0
        self._largest[task] = max(self._largest[task], abs(mean))
        scale = 1.0 if self.by == "success" else self._largest[task] or 1.0
        self._progress[task] = abs(mean - before) / scale
        self._means[task] = mean

    def _next(self) -> int:
        if self._turn < 2 * self.num_tasks:
            return self._turn % self.num_tasks
        if self.rng.random() < self.explore:
            return int(self.rng.integers(self.num_tasks))
        # What has had no turn to compare with has no progress. Ties are drawn: while nobody gets
        # anywhere, as at the start of sparse tasks, all have their turns.
        known = [0.0 if math.isnan(each) else each for each in self._progress]
        first = [task for task, each in enumerate(known) if each == max(known)]
        return first[0] if len(first) == 1 else int(self.rng.choice(first))
