"""All tasks at once: episode by episode in one environment, side by side in a vector of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from sb3_moe_envs.numbers import positive
from sb3_moe_envs.schedules.base import Episode, Schedule, Slots, as_list


class Interleave(Schedule):
    """Mix all tasks, in equal or weighted shares, changing task between episodes only.

    In round robin the next episode goes to the task that is furthest behind its share; ties go to
    the next index, and environment i starts with task i. A vector environment gives each task a
    fixed share of its slots, which is the same share of the steps.

    :param unit: what the shares are shares of, `"steps"` or `"episodes"`
    :param order: `"round_robin"`, or `"random"`: drawn so that the shares hold on average
    :param weights: share of each task, any positive numbers; None: equal
    :raises TypeError: if `weights` isn't a list
    :raises ValueError: if an argument is out of range
    """

    _state = ("_task", "_steps", "_episodes")

    def __init__(
        self,
        unit: Literal["steps", "episodes"] = "steps",
        *,
        order: Literal["round_robin", "random"] = "round_robin",
        weights: Sequence[float] | None = None,
    ) -> None:
        if unit not in ("steps", "episodes"):
            raise ValueError(f"`unit` must be 'steps' or 'episodes', got {unit!r}")
        if order not in ("round_robin", "random"):
            raise ValueError(f"`order` must be 'round_robin' or 'random', got {order!r}")
        self.unit, self.order = unit, order
        given = None if weights is None else as_list("weights", weights, "positive numbers")
        self.weights = None if given is None else tuple(positive("weights", w) for w in given)
        if self.weights is not None and not math.isfinite(sum(self.weights)):
            raise ValueError(f"`weights` must have a finite sum, got {list(self.weights)}")
        fixed = unit == "steps" and order == "round_robin"
        if not self._chooses_slots():
            self.slots = Slots.SHARED if fixed else Slots.OWN

    def __repr__(self) -> str:
        order = "" if self.order == "round_robin" else f", order={self.order!r}"
        weights = "" if self.weights is None else f", weights={list(self.weights)}"
        return f"Interleave({self.unit!r}{order}{weights})"

    @classmethod
    def _chooses_slots(cls) -> bool:
        """Say whether a class of one's own says itself how it uses slots."""
        own = cls.__mro__[: cls.__mro__.index(Interleave)]
        return any("slots" in vars(each) for each in own)

    @classmethod
    def changes_turns(cls) -> bool:
        """Say whether a class of one's own chooses tasks otherwise: fixed shares never ask it."""
        return any(
            getattr(cls, name) is not getattr(Interleave, name)
            for name in ("task", "count", "end", "_next")
        )

    def shares(self, num_tasks: int) -> np.ndarray:
        """Return each task's share, summing to 1.

        :raises ValueError: if there are not as many weights as tasks
        """
        if self.weights is None:
            return np.full(num_tasks, 1 / num_tasks)
        if len(self.weights) != num_tasks:
            raise ValueError(
                f"`weights` must have one entry per task, {num_tasks}, got {len(self.weights)}"
            )
        return np.asarray(self.weights) / sum(self.weights)

    def _start(self, task_names: Sequence[str]) -> None:
        self._shares = self.shares(self.num_tasks)
        self._steps = [0] * self.num_tasks
        self._episodes = [0] * self.num_tasks
        self._task = self._next()

    @property
    def task(self) -> int:
        """The task of the running episode, or of the next one."""
        return self._task

    def end(self, episode: Episode) -> None:
        """Choose the next episode's task."""
        self._steps[episode.task] += episode.steps
        self._episodes[episode.task] += 1
        self._task = self._next()

    def _next(self) -> int:
        if self.order == "random":
            return int(self.rng.choice(self.num_tasks, p=self._probabilities()))
        played = self._steps if self.unit == "steps" else self._episodes
        behind = np.asarray(played) / self._shares
        turn = (np.arange(self.num_tasks) - self.env_index) % self.num_tasks
        return int(np.lexsort((turn, behind))[0])

    def _probabilities(self) -> np.ndarray:
        """Shares of episodes; for shares of steps, long episodes are drawn less often."""
        if self.unit == "episodes" or not any(self._steps):
            return self._shares
        mean = sum(self._steps) / sum(self._episodes)
        lengths = [
            steps / episodes if steps else mean
            for steps, episodes in zip(self._steps, self._episodes, strict=True)
        ]
        odds = self._shares / np.asarray(lengths)
        return np.asarray(odds / odds.sum())


def slot_counts(shares: np.ndarray, num_slots: int) -> list[int]:
    """Give each task a whole number of slots, at least one, by the largest remainder.

    :param shares: (N,) summing to 1
    :raises ValueError: if there are fewer slots than tasks
    """
    if num_slots < len(shares):
        raise ValueError(
            f"`num_envs` must be at least the number of tasks, {len(shares)}, under Interleave, "
            f"got {num_slots}"
        )
    # One slot each comes first; the rest follow what is still missing of each share.
    missing = np.maximum(shares * num_slots - 1, 0)
    rest = num_slots - len(shares)
    quotas = missing / missing.sum() * rest if rest else missing * 0
    counts = np.floor(quotas).astype(int)
    order = np.argsort(counts - quotas, kind="stable")
    counts[order[: rest - counts.sum()]] += 1
    return [int(count) + 1 for count in counts]
