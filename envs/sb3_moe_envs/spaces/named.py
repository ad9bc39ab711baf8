"""Spaces with a task id in them, which say what the tasks are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from gymnasium import spaces


class NamedId(spaces.Discrete):  # type: ignore[type-arg]  # generic in some versions only
    """The id of a task.

    Ids of the same tasks in another order are another space, which SB3 refuses as it does all
    others: an agent would take each task for another. Ids of other tasks are the same space: an
    agent may go on with new ones.

    :param task_names: of all tasks, by id; also the attribute that whoever is shown the space reads
    """

    def __init__(self, task_names: Sequence[str]) -> None:
        super().__init__(len(task_names))
        self.task_names = tuple(task_names)

    def __eq__(self, other: object) -> bool:
        """Compare as Discrete does, and the order of the tasks."""
        return super().__eq__(other) and not _is_reordered(self.task_names, other)

    def __repr__(self) -> str:
        return f"NamedId({list(self.task_names)})"


class NamedBox(spaces.Box):
    """Numbers with a task's id among them; equal to others as a :class:`NamedId` is.

    :param low: lower bounds
    :param high: upper bounds
    :param dtype: of the numbers
    :param task_names: of all tasks, by id
    """

    def __init__(
        self, low: npt.NDArray[Any], high: npt.NDArray[Any], dtype: Any, task_names: Sequence[str]
    ) -> None:
        super().__init__(low, high, dtype=dtype)
        self.task_names = tuple(task_names)

    def __eq__(self, other: object) -> bool:
        """Compare as Box does, and the order of the tasks."""
        return super().__eq__(other) and not _is_reordered(self.task_names, other)

    def __repr__(self) -> str:
        return f"{super().__repr__()} of {list(self.task_names)}"


def _is_reordered(names: tuple[str, ...], other: object) -> bool:
    """Say whether another space, of whatever class, has the same names in another order."""
    others = tuple(getattr(other, "task_names", names))
    return names != others and sorted(names) == sorted(others)
