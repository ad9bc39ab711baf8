"""Named sets of tasks, as data: one table from name to suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sb3_moe_envs.minatar import GAMES as MINATAR_GAMES
from sb3_moe_envs.schedules import Cycle, Schedule
from sb3_moe_envs.tasks import Task, as_tasks

PAPER_GAMES = ("SpaceInvaders", "Breakout", "Asterix")


@dataclass(frozen=True)
class Suite:
    """A named set of tasks, and the schedule they come with (None: interleaved).

    :param tasks: the tasks, in order
    :param schedule: the schedule used where none is asked for
    """

    tasks: tuple[Task, ...]
    schedule: Schedule | None = None


def _minatar(games: Sequence[str]) -> tuple[Task, ...]:
    return tuple(Task(game, f"sb3_moe_envs:SB3MoE/MinAtar-{game}-v0") for game in games)


SUITES: dict[str, Suite] = {
    "MinAtar/MTRL3": Suite(_minatar(PAPER_GAMES)),
    "MinAtar/CRL3": Suite(_minatar(PAPER_GAMES), Cycle(steps_per_task=1_000_000)),
    "MinAtar/All5": Suite(_minatar(MINATAR_GAMES)),
}


def get_suite(name: str) -> list[Task]:
    """Return the tasks of a suite.

    :raises ValueError: if no suite has that name
    """
    if name not in SUITES:
        raise ValueError(f"`tasks` must name a suite, one of {sorted(SUITES)}, got {name!r}")
    return list(SUITES[name].tasks)


def register_suite(name: str, tasks: Any, schedule: Schedule | None = None) -> None:
    """Add a suite under a new name: `register_suite("Mine/Two", ["CartPole-v1", "Acrobot-v1"])`.

    :raises ValueError: if the name is taken
    """
    if name in SUITES:
        raise ValueError(f"`name` must be new, got {name!r}, which is already a suite")
    SUITES[name] = Suite(tuple(as_tasks(tasks)), schedule)


def suite_schedule(tasks: Any) -> Schedule | None:
    """Return the schedule that a suite comes with, or None."""
    suite = SUITES.get(tasks) if isinstance(tasks, str) else None
    return suite.schedule if suite else None
