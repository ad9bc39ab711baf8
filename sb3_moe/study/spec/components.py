"""The callbacks, schedules and normalizers that a study's file can name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_moe import callbacks as ours
from sb3_moe.study.spec.named import Named, arguments_for, parameters_of
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize

if TYPE_CHECKING:
    from sb3_moe.study.spec.config import CellConfig

#: Callbacks that can be named without their module.
CALLBACKS: dict[str, type] = {
    name: found
    for name in ours.__all__
    if isinstance(found := getattr(ours, name), type) and issubclass(found, BaseCallback)
}
#: Normalizers likewise.
NORMALIZERS: dict[str, type] = {
    "PerTaskVecNormalize": PerTaskVecNormalize,
    "VecNormalize": VecNormalize,
}
# What says the same in a study's file.
_ENTRIES = {"MultiTaskEvalCallback": "evaluation", "SnapshotCallback": "checkpoints"}


def normalizer_class(named: Named) -> type[Any]:
    """Give the class of normalizers that a file names.

    :raises ValueError: if there is none
    """
    return named.class_of(VecNormalize, NORMALIZERS, "normalize")


def callback_class(named: Named, where: str = "callbacks") -> type[Any]:
    """Give the class of callbacks that a file names.

    :param where: the entry that holds it
    :raises ValueError: if there is none
    """
    return named.class_of(BaseCallback, CALLBACKS, where)


def check_callbacks(callbacks: Sequence[Named], where: str) -> None:
    """Raise unless there are such callbacks, and they take their arguments.

    :param where: the entry that holds them
    :raises ValueError: naming the entry
    """
    for each in callbacks:
        kind = callback_class(each, where)
        for name, entry in _ENTRIES.items():
            # One of the user's own would write into the same files, unless it is given others.
            is_ours = kind is CALLBACKS[name]
            if is_ours or (issubclass(kind, CALLBACKS[name]) and "log_path" not in each.arguments):
                raise ValueError(
                    f"`{where}` can't have {each.name}, a {name}, which every run has: `{entry}` "
                    "says how often"
                )
        arguments_for(kind, each.arguments, f"{where}.{each.name}")


def build_callbacks(callbacks: Sequence[Named], folder: Path) -> list[BaseCallback]:
    """Build what a file names.

    :param folder: where those write that have a ``log_path`` and aren't given one
    """
    return [_build_callback(each, folder) for each in callbacks]


def _build_callback(named: Named, folder: Path) -> Any:
    kind = callback_class(named)
    where = {"log_path": folder} if "log_path" in parameters_of(kind) else {}
    return kind(**{**where, **arguments_for(kind, named.arguments, f"callbacks.{named.name}")})


def build_schedule(schedule: Named) -> Any:
    """Build the schedule that a file names.

    :raises ValueError: naming the entry, or what the schedule says against it
    """
    from sb3_moe_envs import Adaptive, Cycle, Interleave, LearningProgress, Schedule, Sequence

    known = {
        each.__name__: each for each in (Adaptive, Cycle, Interleave, LearningProgress, Sequence)
    }
    kind = schedule.class_of(Schedule, known, "schedule")
    arguments = arguments_for(kind, schedule.arguments, f"schedule.{schedule.name}")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`schedule`: {error}") from error


def schedule_of(cell: CellConfig) -> Any:
    """Say which task is played when."""
    from sb3_moe_envs import Cycle, Interleave

    if cell.schedule is not None:
        return build_schedule(cell.schedule)
    if cell.regime == "mtrl":
        return Interleave()
    return Cycle(cell.steps_per_task, order=list(cell.order), num_cycles=cell.cycles)


def check_turns(cell: CellConfig) -> None:
    """Raise unless a run's parallel environments can play its tasks as its schedule says.

    :raises ValueError: naming the entry, or what the schedule says against it
    """
    schedule = schedule_of(cell)
    if takes_all_tasks(schedule) and cell.n_envs < len(cell.games):
        raise ValueError(
            f"`n_envs` must be at least the number of tasks, {len(cell.games)}, got {cell.n_envs}"
        )
    try:
        schedule.start(cell.games)
        schedule.check_num_envs(cell.n_envs)
    except ValueError as error:
        raise ValueError(f"`schedule`: {error}") from error


def takes_all_tasks(schedule: Any) -> bool:
    """Say whether a schedule gives each task parallel environments of its own."""
    from sb3_moe_envs.schedules import Slots

    return bool(schedule.slots is Slots.SHARED)
