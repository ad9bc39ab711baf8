"""What a study says of itself, beside what its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_moe.study.spec.entries import read_yaml


@dataclass(frozen=True, kw_only=True)
class About:
    """A study's own words; its report says the rest from the configuration.

    :param title: of the page, empty for one made of the study's name, algorithm and tasks
    :param introduction: what is asked and why; an empty line begins a new paragraph
    :param notes: choices that the configuration can't tell, a sentence or two each
    :param reproduce: how to run it again
    """

    title: str = ""
    introduction: str = ""
    notes: tuple[str, ...] = ()
    reproduce: str = ""


def read_about(value: Any, folder: Path) -> Any:
    """Read the file that ``about`` names; what is no name stays as it is.

    :param folder: against which the path is resolved
    :raises ValueError: if there is no such file, or it holds no mapping
    """
    if not isinstance(value, str):
        return value
    path = folder / value
    try:
        found = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`about` must be a mapping, or a file of one: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"`about` must be a mapping, or a file of one, got {found!r} in {path}")
    return found
