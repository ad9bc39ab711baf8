"""What was run last in a study's folder, as ``study.json`` says, beside the study of a report.

Several studies may share a folder, where their runs have different names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_moe.study.spec.config import WORLD, completed, plain
from sb3_moe.study.spec.grid import StudyConfig

# No run goes by these, and they are often changed before a report is written again.
_OF_REPORTS = ("about", "claims")


def check_level(study: StudyConfig, last: Mapping[str, Any]) -> None:
    """Raise if the random policy played last in other environments than the study's.

    :param last: of ``study.json``
    :raises ValueError: naming both
    """
    said = last.get("study")
    if not isinstance(said, Mapping):
        return
    # What version 0.1 doesn't say is what a world leaves out.
    played = {name: said[name] for name in WORLD if said.get(name)}
    if played != plain(study.world):
        raise ValueError(f"random.json must be of {plain(study.world)}, got {played}")


def other_study(study: StudyConfig, last: Mapping[str, Any]) -> dict[str, Any]:
    """Say how the study that was run last differs; nothing where it is this one.

    :param last: of ``study.json``
    :return: its ``name``, and the other ``entries`` that differ, as far as both have them
    """
    said, now = last.get("study"), study.to_dict()
    if not isinstance(said, Mapping):
        return {}
    differing = [
        name
        for name in now
        if name in said and name not in _OF_REPORTS and _told(said[name]) != _told(now[name])
    ]
    entries = [name for name in differing if name != "name"]
    return {"name": said.get("name"), "entries": entries} if differing else {}


def _told(entry: Any) -> Any:
    """Give an entry of a study as every version would have written it."""
    networks = isinstance(entry, list) and all(isinstance(each, Mapping) for each in entry)
    return [_network(each) for each in entry] if networks else entry


def _network(values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete what 0.1 says of a network, and of any other entry, which it does no harm.

    Without the model that it begins with, whose path goes by where the study lay: runs are checked
    for the model itself.
    """
    told = completed({"architecture": values})["architecture"]
    return {**told, "start_from": None}
