"""Whether what a run left can be relied on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_moe.presets import MINATAR_PPO
from sb3_moe.saving.snapshot import check_files
from sb3_moe.study.spec.setup import steps_between

#: What every run that is done has written.
ESSENTIAL = ("config.json", "scores.npz")
#: Statistics of a normaliser that ``model.moe`` can't hold.
STATISTICS = "vec_normalize.pkl"
#: Whose weights a run began with.
ORIGIN = "start_from.json"
#: What a run that is done is judged by: the user's callbacks may still write into files of theirs.
RESULTS = (*ESSENTIAL, "diagnostics.npz", "model.moe", "model.zip", STATISTICS, ORIGIN)


def check_snapshot(path: Path) -> None:
    """Raise if a snapshot is not whole, as far as can be told without loading it.

    :raises ValueError: naming the file
    """
    check_files(path)


def covers(steps: npt.NDArray[Any], until: int, longest_gap: int) -> bool:
    """Say whether evaluations reach from before training to a step.

    :param steps: of the evaluations, rising
    :param longest_gap: steps between two of them, at most
    """
    marks = np.append(steps[steps <= until], until)
    return bool(marks[0] == 0 and np.diff(marks).max(initial=0) <= longest_gap)


def longest_gap(config: Mapping[str, Any]) -> int:
    """Give the most steps between two evaluations: one that is due waits for the rollout's end.

    :param config: what ``config.json`` holds
    :raises ValueError: if it lacks what this takes
    """
    try:
        cell = config["cell"]
        every = steps_between(cell["steps_per_task"], cell["evaluation"]["points"])
        if "rollout" not in config:  # as in 0.1
            rollout = int(cell["n_envs"] * (MINATAR_PPO | config.get("ppo", {}))["n_steps"])
        else:
            rollout = config["rollout"]
        return int(-(-every // rollout) * rollout)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise _not_ours(error) from error


def _not_ours(error: Exception) -> ValueError:
    return ValueError(f"config.json is not what a run writes: {error!r}")


def probes_by_itself(config: Mapping[str, Any]) -> bool:
    """Say whether the file names a ``PlasticityCallback``, which looks when and where it says.

    The run wrote it down; earlier versions' didn't, and knew only the class itself.

    :param config: what ``config.json`` holds, whose names are only read: nothing is imported
    :raises ValueError: if it isn't what a run writes
    """
    if "probes_by_itself" in config:
        return bool(config["probes_by_itself"])
    try:
        cell = config["cell"]
        named = [*cell.get("callbacks", ()), *cell["architecture"].get("callbacks", ())]
        return any(each["name"].rpartition(":")[2] == "PlasticityCallback" for each in named)
    except (AttributeError, KeyError, TypeError) as error:
        raise _not_ours(error) from error


def checksums_of(done: Mapping[str, Any]) -> Mapping[str, str]:
    """Give the checksums that ``done.json`` holds.

    :raises ValueError: if it lacks them, or the number of steps
    """
    checksums = done.get("sha256")
    if not isinstance(checksums, Mapping) or not set(ESSENTIAL) <= set(checksums):
        raise ValueError(f"done.json has no checksums of {' and '.join(ESSENTIAL)}")
    if not isinstance(done.get("steps"), int):
        raise ValueError(f"done.json must say how many steps there were, got {done.get('steps')!r}")
    return checksums
