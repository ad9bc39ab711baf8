"""Callbacks that a study's file names, remedies among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_moe import callbacks as ours
from sb3_moe.study.spec.named import Named, resolved
from sb3_moe.study.spec.signatures import parameters_of

#: Those that can be named without their module.
CALLBACKS: dict[str, type] = {
    name: found
    for name in ours.__all__
    if isinstance(found := getattr(ours, name), type) and issubclass(found, BaseCallback)
}

# What says the same in a study's file.
_ENTRIES = {"MultiTaskEvalCallback": "evaluation", "SnapshotCallback": "checkpoints"}


def callback_class(named: Named, where: str = "callbacks") -> type[Any]:
    """Give the class that a file names.

    :param where: the entry that holds it
    :raises ValueError: naming the entry
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
            ours = kind is CALLBACKS[name]
            if ours or (issubclass(kind, CALLBACKS[name]) and "log_path" not in each.arguments):
                raise ValueError(
                    f"`{where}` can't have {each.name}, a {name}, which every run has: `{entry}` "
                    "says how often"
                )
        each.check(BaseCallback, CALLBACKS, where)


def build_callbacks(callbacks: Sequence[Named], folder: Path) -> list[BaseCallback]:
    """Build what a file names.

    :param folder: where those write that have a ``log_path`` and aren't given one
    """
    return [_build(each, folder) for each in callbacks]


def _build(named: Named, folder: Path) -> Any:
    kind = callback_class(named)
    where = {"log_path": folder} if "log_path" in parameters_of(kind) else {}
    return kind(**{**where, **resolved(named.arguments)})
