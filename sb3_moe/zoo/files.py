"""Where the zoo's files of hyperparameters are."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def hyperparameters(algorithm: str) -> Path:
    """Return the file of hyperparameters of an algorithm, for the zoo's ``--conf-file``.

    :param algorithm: as the zoo calls it, such as ``"ppo"``
    :raises ValueError: if there is none
    """
    path = FOLDER / f"{algorithm}.yml"
    able = sorted(each.stem for each in FOLDER.glob("*.yml"))
    if algorithm not in able:
        raise ValueError(f"`algorithm` must be among {able}, got {algorithm!r}")
    return path
