"""Schedules in turns: of a set length, until a rule holds, or chosen by learning progress."""

import math
import re
from bisect import bisect_right
from collections import abc
from collections.abc import Callable
from itertools import accumulate
from operator import eq, ge, gt, le, lt
from typing import Literal

import numpy as np

from sb3_moe_envs.checks import finite, optional_whole, whole
from sb3_moe_envs.schedules.by_episode import Episode, Schedule, task_index


class Turns(Schedule):
    """Play the tasks in turns; after the last turn, stay with its task.

    :param num_cycles: how often to go through all tasks; None: without end
    :param order: the tasks' indices or names in the order to play; None: in their own order
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self, *, num_cycles: int | None = 1, order: abc.Sequence[int | str] | None = None
    ) -> None:
        self.num_cycles = optional_whole("num_cycles", num_cycles)
        self.order = None if order is None else tuple(order)

    @property
    def task(self) -> int:
        """The task whose turn it is."""
        return self._order[self.turn % len(self._order)]

    def num_turns(self, num_tasks: int) -> int | None:
        """Return the total number of turns, or None if the schedule never ends."""
        per_cycle = num_tasks if self.order is None else len(self.order)
        return None if self.num_cycles is None else per_cycle * self.num_cycles

    def _start(self, task_names: abc.Sequence[str]) -> None:
        order: abc.Sequence[int | str] = range(self.num_tasks) if self.order is None else self.order
        self._order = [task_index(task, task_names, "order") for task in order]

    def _held(self, turn: int) -> int:
        """Return a turn's number, but at most that of the last turn."""
        num_turns = self.num_turns(self.num_tasks)
        return turn if num_turns is None else min(turn, num_turns - 1)


class Cycle(Turns):
    """Play each task for a set time, then the next, for some cycles; then stay with the last task.

    A vector environment counts the steps of all its environments, and a `MultiTaskEnv` each of its
    steps as `num_envs` steps. Turns end at multiples of their length; the first step that reaches
    one switches the task. For turns of three episodes take `Adaptive("episodes>=3")`.

    >>> cycle = Cycle(steps_per_task=1000, num_cycles=2, round_to=256)
    >>> cycle.total_steps(num_tasks=3)
    6144

    :param steps_per_task: length of a turn in environment steps
    :param num_cycles: how often to go through all tasks; None: without end
    :param order: the tasks' indices or names in the order to play; None: in their own order
    :param round_to: round `steps_per_task` up to a multiple of this, such as
        n_steps * n_envs, so that no rollout straddles a switch
    :raises ValueError: if an argument is out of range
    """

    _state = ("_done",)

    def __init__(
        self,
        steps_per_task: int,
        *,
        num_cycles: int | None = 1,
        order: abc.Sequence[int | str] | None = None,
        round_to: int | None = None,
    ) -> None:
        super().__init__(num_cycles=num_cycles, order=order)
        steps = whole("steps_per_task", steps_per_task)
        unit = optional_whole("round_to", round_to) or 1
        self.steps_per_task = -(-steps // unit) * unit

    def total_steps(self, num_tasks: int) -> int:
        """Return the length of the whole schedule in environment steps.

        :raises ValueError: if the cycles have no end
        """
        num_turns = self.num_turns(num_tasks)
        if num_turns is None:
            raise ValueError(f"`total_steps` needs a number of cycles, got {self!r}")
        return self.steps_per_task * num_turns

    @property
    def turn(self) -> int:
        """Which turn this is, counted over all cycles from 0."""
        return self._held(self._done // self.steps_per_task)

    def count(self, steps: int) -> None:
        """Count these steps."""
        self._done += steps

    def _start(self, task_names: abc.Sequence[str]) -> None:
        super()._start(task_names)
        self._done = 0


class Sequence(Schedule):
    """Play (task, steps) blocks one after the other; then stay with the last task.

    :param blocks: pairs of a task's index or name and a number of environment steps, counted over
        all environments: `[("Breakout", 100_000), ("Asterix", 50_000), ("Breakout", 100_000)]`
    :raises ValueError: if a block is shorter than a step
    """

    _state = ("_steps",)

    def __init__(self, blocks: abc.Sequence[tuple[int | str, int]]) -> None:
        self.blocks = tuple(
            (task, whole(f"blocks[{index}]", steps)) for index, (task, steps) in enumerate(blocks)
        )
        self._ends = list(accumulate(steps for _, steps in self.blocks))

    def total_steps(self) -> int:
        """Return the length of the whole schedule in environment steps."""
        return self._ends[-1]

    @property
    def task(self) -> int:
        """The task of the running block."""
        return self._tasks[min(bisect_right(self._ends, self._steps), len(self._tasks) - 1)]

    def count(self, steps: int) -> None:
        """Count these steps."""
        self._steps += steps

    def _start(self, task_names: abc.Sequence[str]) -> None:
        self._tasks = [task_index(task, task_names, "blocks") for task, _ in self.blocks]
        self._steps = 0


MEASURES = ("return", "success")
_COMPARISONS = {">=": ge, "<=": le, "==": eq, ">": gt, "<": lt}
_COMPARISON = re.compile(r"\s*(steps|episodes|return|success)\s*(>=|<=|==|>|<)\s*(\S+)\s*")
# A name, a comparison and a number.
Condition = tuple[str, Callable[[float, float], bool], float]


def conditions_of(rule: str) -> list[list[Condition]]:
    """Read a rule as lists of conditions; it holds if all conditions of any one list hold.

    :raises ValueError: if it can't be read
    """
    try:
        return [
            [_condition(each) for each in re.split(r"\band\b", alternative)]
            for alternative in re.split(r"\bor\b", rule)
        ]
    except ValueError as error:
        raise ValueError(
            "`rule` must be comparisons such as 'steps>=1e5 and return>=200' of steps, episodes, "
            f"return or success with a number, joined by `and` and `or`, got {rule!r}"
        ) from error


def _condition(text: str) -> Condition:
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no comparison")
    name, sign, number = match.groups()
    return name, _COMPARISONS[sign], finite("rule", float(number))


class Adaptive(Turns):
    """Play each task until a rule holds, then the next; after the last turn, stay with its task.

    The rule compares quantities of the running turn: `steps` and `episodes`, counted over
    all environments (a `MultiTaskEnv` counts its own episodes, and each step as `num_envs` steps),
    and the mean `return` and `success` of the last `window` finished episodes, once there are that
    many. Write `or steps>=1e6` for a limit. The success of an episode is 1 if `info["is_success"]`
    or `info["success"]` is true at any of its steps, else 0. An episode that reports neither
    counts as 0 if another one of the window reports one of them.

    :param rule: such as `"steps>=1e5 and return>=200 or steps>=1e6"`: comparisons, `and` and `or`,
        where `and` binds more tightly
    :param window: over how many finished episodes to average
    :param num_cycles: how often to go through all tasks; None: without end
    :param order: the tasks' indices or names in the order to play; None: in their own order
    :raises ValueError: if the rule can't be read or a number is out of range
    """

    #: which turn this is, counted over all cycles from 0
    turn = 0
    _returns: list[float]
    _successes: list[float]
    _state: tuple[str, ...] = ("turn", "_steps", "_episodes", "_returns", "_successes")

    def __init__(
        self,
        rule: str,
        *,
        window: int = 20,
        num_cycles: int | None = 1,
        order: abc.Sequence[int | str] | None = None,
    ) -> None:
        super().__init__(num_cycles=num_cycles, order=order)
        self.rule = rule
        self.window = whole("window", window)
        self._conditions = conditions_of(rule)

    def count(self, steps: int) -> None:
        """Count these steps, and move on if the rule holds."""
        self._steps += steps
        self._move_on()

    def end(self, episode: Episode) -> None:
        """Count a finished episode, and move on if the rule holds."""
        if not episode.finished:
            return
        self._episodes += 1
        self._returns = [*self._returns, episode.reward][-self.window :]
        self._successes = [*self._successes, episode.success][-self.window :]
        self._move_on()

    def _start(self, task_names: abc.Sequence[str]) -> None:
        super()._start(task_names)
        self.turn = 0
        self._clear()

    def _clear(self) -> None:
        self._steps = self._episodes = 0
        self._returns = []
        self._successes = []

    def _move_on(self) -> None:
        values = {
            "steps": self._steps,
            "episodes": self._episodes,
            "return": self._mean(self._returns),
            "success": self._mean(self._successes),
        }
        # A mean that isn't known yet is NaN, for which every comparison is False.
        holds = any(
            all(compare(values[name], number) for name, compare, number in alternative)
            for alternative in self._conditions
        )
        if holds and self._held(self.turn + 1) > self.turn:
            self.turn += 1
            self._clear()

    def _mean(self, values: list[float]) -> float:
        return mean(values) if len(values) == self.window else math.nan


def mean(values: list[float]) -> float:
    """Return the mean; NaN, an unknown success, counts as 0 unless all values are NaN."""
    total = sum(values)
    if math.isnan(total):  # rare, and this runs at every step
        known = [value for value in values if not math.isnan(value)]
        total = sum(known) if known else math.nan
    return total / len(values)


class LearningProgress(Adaptive):
    """Play each task until a rule holds, then the one with the most learning progress.

    A task's progress is the absolute difference between the mean over its turn's last episodes and
    the same mean of its turn before: so tasks that are being forgotten are played again. For
    returns, the difference is divided by the task's largest absolute mean return so far, so that
    tasks with different scales of reward can be compared. Each task first has two turns, in order.
    Then, with the probability `explore`, a task is drawn in place of the best one, since progress
    may begin where there was none (as in "Teacher-Student Curriculum Learning", arXiv 1707.00183).

    :param rule: when a turn ends, as for `Adaptive`, such as `"episodes>=20"`
    :param by: the quantity whose progress counts, `"return"` or `"success"`
    :param explore: probability that a turn's task is drawn at random, in [0, 1]
    :param window: over how many of a turn's last episodes to average
    :param num_cycles: the number of turns, divided by the number of tasks; after the last turn, the
        schedule stays with its task; None: no end
    :raises ValueError: if the rule can't be read or an argument is out of range
    """

    #: the task whose turn it is
    task = 0
    _state = (*Adaptive._state, "task", "_means", "_largest", "_progress")

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
        self.by = by
        self.explore = float(explore)

    def _start(self, task_names: abc.Sequence[str]) -> None:
        super()._start(task_names)
        self.task = 0
        self._means = [math.nan] * self.num_tasks
        self._largest = [0.0] * self.num_tasks
        self._progress = [0.0] * self.num_tasks

    def _move_on(self) -> None:
        before = self.turn
        seen = self._returns if self.by == "return" else self._successes
        super()._move_on()
        if self.turn > before:
            if seen:
                self._learn(mean(seen))
            self.task = self._next()

    def _learn(self, mean: float) -> None:
        """Compare the turn that has just ended with the turn before of the same task."""
        task = self.task
        before = self._means[task]
        if math.isnan(mean):  # an unknown success counts as 0
            mean = 0.0
        self._largest[task] = max(self._largest[task], abs(mean))
        scale = 1.0 if self.by == "success" else self._largest[task] or 1.0
        self._progress[task] = abs(mean - before) / scale
        self._means[task] = mean

    def _next(self) -> int:
        if self.turn < 2 * self.num_tasks:
            return self.turn % self.num_tasks
        if self.rng.random() < self.explore:
            return int(self.rng.integers(self.num_tasks))
        # A task without two turns to compare has no progress. Ties are drawn: while no task makes
        # progress, as at the start with sparse rewards, all tasks get turns.
        progress = np.nan_to_num(self._progress)
        return int(self.rng.choice(np.flatnonzero(progress == progress.max())))
