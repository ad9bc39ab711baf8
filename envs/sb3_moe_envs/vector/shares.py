"""Which slot plays which task for good, where tasks are interleaved."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from sb3_moe_envs.schedules import Interleave, Schedule, Slots, slot_counts

# Shares by whole slots are off by so much at most, or a warning says so.
HALF_A_SLOT = 0.5


def fixed_tasks(schedule: Schedule, num_tasks: int, num_slots: int) -> np.ndarray | None:
    """Return the task of each slot under `Interleave`, or None where all slots switch together.

    :param schedule: which task when
    :param num_tasks: how many there are
    :param num_slots: how many slots
    :return: (num_slots,); a warning says where that misses the schedule's weights
    :raises ValueError: if slots would choose their tasks each for itself, or are too few
    """
    if schedule.slots is Slots.TOGETHER:
        return None
    if schedule.slots is Slots.SHARED and not isinstance(schedule, Interleave):
        raise ValueError(
            f"`schedule` with Slots.SHARED must be an Interleave, got {schedule!r}: give your "
            "own Slots.TOGETHER or Slots.OWN"
        )
    if schedule.slots is Slots.OWN or not isinstance(schedule, Interleave):
        raise ValueError(
            f"`schedule` must share the slots or switch them together; {schedule!r} chooses per "
            "slot: use make_multitask_vector"
        )
    if schedule.changes_turns():
        raise ValueError(
            f"`schedule` of a class of your own must say `slots = Slots.OWN` where it chooses "
            f"tasks, got {type(schedule).__name__} with Slots.SHARED, which fixes each slot's task"
        )
    counts = slot_counts(schedule.shares(num_tasks), num_slots)
    if schedule.weights is not None:
        _warn_of_other_shares(schedule, counts)
    return np.repeat(np.arange(num_tasks), counts)


def _warn_of_other_shares(schedule: Interleave, counts: Sequence[int]) -> None:
    """Warn where whole slots miss the shares that the weights ask for."""
    num_slots, shares = sum(counts), schedule.shares(len(counts))
    if np.abs(np.array(counts) - shares * num_slots).max() < HALF_A_SLOT:
        return
    more = range(num_slots + 1, 100 * num_slots)
    enough = (n for n in more if np.allclose(slot_counts(shares, n), shares * n, atol=0.01 * n))
    warnings.warn(
        f"with `num_envs`={num_slots} the tasks get {list(counts)} slots, not the shares of the "
        f"steps that `weights`={list(schedule.weights or ())} ask for; {next(enough, 'more')} "
        "would do",
        stacklevel=4,
    )
