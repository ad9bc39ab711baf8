"""Whether a device is there, before a file is opened for it."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.utils import get_device


def check_device(device: object) -> None:
    """Raise unless torch has a device here; like SB3, a CPU stands in where there is no GPU.

    :param device: as in SB3's ``load``
    :raises ValueError: saying what torch says
    """
    try:
        th.empty(0, device=get_device(device))  # type: ignore[arg-type]  # anything may be given
    except (RuntimeError, AssertionError, TypeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"`device` must be one that torch has here, got {device!r} ({said[0]})"
        ) from error
