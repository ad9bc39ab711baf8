"""Which task is played when: the regimes' schedules, and those that a file names."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sb3_moe.study.spec.named import Named, resolved
from sb3_moe.study.spec.signatures import as_declared, parameters_of

if TYPE_CHECKING:
    from sb3_moe.study.spec.config import CellConfig


def known_schedules() -> dict[str, type]:
    """Give the schedules that can be named without their module, by their names."""
    from sb3_moe_envs import Adaptive, Cycle, Interleave, LearningProgress, Sequence

    kinds = (Adaptive, Cycle, Interleave, LearningProgress, Sequence)
    return {each.__name__: each for each in kinds}


def check_schedule(schedule: Named) -> None:
    """Raise unless there is such a schedule, and it can be built.

    :raises ValueError: naming the entry, or what the schedule says against it
    """
    from sb3_moe_envs import Schedule

    schedule.check(Schedule, known_schedules(), "schedule")
    try:
        build_schedule(schedule)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`schedule`: {error}") from error


def build_schedule(schedule: Named) -> Any:
    """Build the schedule that a file names."""
    from sb3_moe_envs import Schedule

    kind = schedule.class_of(Schedule, known_schedules(), "schedule")
    parameters = parameters_of(kind)
    arguments = resolved(schedule.arguments)
    return kind(**{name: as_declared(parameters[name], v) for name, v in arguments.items()})


def schedule_of(cell: CellConfig) -> Any:
    """Say which task is played when."""
    from sb3_moe_envs import Cycle, Interleave

    if cell.schedule is not None:
        return build_schedule(cell.schedule)
    if cell.regime == "mtrl":
        return Interleave()
    return Cycle(cell.steps_per_task, order=list(cell.order), num_cycles=cell.cycles)


def check_turns(cell: CellConfig) -> None:
    """Raise unless a cell's copies can play its tasks as its schedule says.

    :raises ValueError: naming the entry, or what the schedule says against it
    """
    from sb3_moe_envs.schedules import Slots
    from sb3_moe_envs.schedules.interleave import fixed_tasks

    schedule, vectorization = schedule_of(cell), cell.env.get("vectorization", "sync")
    try:
        schedule.start(cell.games)
        schedule.check_num_envs(cell.n_envs)
        if schedule.slots is not Slots.OWN:
            with warnings.catch_warnings():  # of unequal shares, which the world says itself
                warnings.simplefilter("ignore")
                fixed_tasks(schedule, len(cell.games), cell.n_envs)
        elif vectorization != "sync":
            raise ValueError(
                f"{schedule!r} chooses a task for each copy, which needs `vectorization`='sync', "
                f"got {vectorization!r}"
            )
    except ValueError as error:
        raise ValueError(f"`schedule`: {error}") from error


def takes_all_tasks(schedule: Any) -> bool:
    """Say whether a schedule gives each task copies of its own, and so needs as many."""
    from sb3_moe_envs.schedules import Slots

    return bool(schedule.slots is Slots.SHARED)
