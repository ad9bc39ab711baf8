"""A curriculum that moves on when the agent is good enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sb3_moe_envs.numbers import whole
from sb3_moe_envs.schedules.base import Episode
from sb3_moe_envs.schedules.rules import Rule
from sb3_moe_envs.schedules.turns import Turns


class Adaptive(Turns):
    """Play each task until a rule holds, then the next; then hold the last.

    The rule knows, of this turn: `steps` and `episodes`, counted as by `Cycle`, and the mean
    `return` and `success` of the last `window` finished episodes, once there are that many. Write
    `or steps>=1e6` for a limit. An episode is a success, 1 and not 0, if `info["is_success"]` or
    `info["success"]` of any of its steps is true; one that says nothing is none if another of the
    window says something.

    :param rule: such as `"steps>=1e5 and return>=200"`; `and`, `or`, parentheses and comparisons
    :param window: over how many finished episodes to average
    :param num_cycles: how often to go through all tasks; None: without end
    :param order: the tasks' indices or names in the order to play; None: as they come
    :param shuffle_seed: shuffle the order, the same way for every environment and cycle
    :raises ValueError: if the rule can't be read or a number is out of range
    """

    _returns: list[float]
    _successes: list[float]
    _state: tuple[str, ...] = ("_turn", "_steps", "_episodes", "_returns", "_successes")

    def __init__(
        self,
        rule: str,
        *,
        window: int = 20,
        num_cycles: int | None = 1,
        order: Sequence[int | str] | None = None,
        shuffle_seed: int | None = None,
    ) -> None:
        super().__init__(num_cycles=num_cycles, order=order, shuffle_seed=shuffle_seed)
        self.rule, self.window = rule, whole("window", window)
        self._rule = Rule(rule, ("steps", "episodes", "return", "success"))

    def __repr__(self) -> str:
        return f"Adaptive({self.rule!r}, window={self.window}, num_cycles={self.num_cycles})"

    @property
    def turn(self) -> int:
        """Which turn this is, counted over all cycles from 0."""
        return self._turn

    def count(self, steps: int) -> None:
        """Follow steps, and move on if the rule holds."""
        self._steps += steps
        self._move_on()

    def end(self, episode: Episode) -> None:
        """Follow finished episodes, and move on if the rule holds."""
        if not episode.finished:
            return
        self._episodes += 1
        self._returns = [*self._returns, episode.reward][-self.window :]
        self._successes = [*self._successes, episode.success][-self.window :]
        self._move_on()

    def _start(self, task_names: Sequence[str]) -> None:
        super()._start(task_names)
        self._turn = 0
        self._clear()

    def _clear(self) -> None:
        self._steps = self._episodes = 0
        self._returns, self._successes = [], []

    def _move_on(self) -> None:
        values = {
            "steps": self._steps,
            "episodes": self._episodes,
            "return": self._mean(self._returns),
            "success": self._mean(self._successes),
        }
        if self._rule(values) and self._held(self._turn + 1) > self._turn:
            self._turn += 1
            self._clear()

    def _mean(self, values: list[float]) -> float:
        return mean(values) if len(values) == self.window else math.nan


def mean(values: list[float]) -> float:
    """Return the mean; what is NaN, the success of a silent episode, is 0 beside any that isn't."""
    total = sum(values)
    if math.isnan(total):  # seldom, and this is asked at each step
        known = [value for value in values if not math.isnan(value)]
        total = sum(known) if known else math.nan
    return total / len(values)
