"""Arrays by name in an ``npz`` file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_moe.files.atomic import atomic


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays under a temporary name and rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as file:
        # Returns are mostly whole numbers, which pack well.
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none is `allow_pickle`


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read every array of an ``npz`` file.

    :raises ValueError: naming the file, if it is damaged
    """
    try:
        # numpy leaves a damaged file open if it opened it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path.name} can't be read: {error}") from error
