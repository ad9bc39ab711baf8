"""SB3's files of our policies say which version of this package wrote them."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from sb3_moe.version import __version__, warn_of_another_major_version

_BASE = 1000


def as_number(version: str) -> int:
    """Return ``"1.2.3"``, or ``"1.2.3rc1"``, as one number, 1002003."""
    major, minor, patch = map(int, re.findall(r"\d+", version)[:3])
    return (major * _BASE + minor) * _BASE + patch


def as_version(number: int) -> str:
    """Undo :func:`as_number`; 1 is torch's own number, in the files of 0.1.0."""
    if number == 1:
        return "0.1.0"
    return f"{number // _BASE**2}.{number // _BASE % _BASE}.{number % _BASE}"


class WrittenBy(nn.Module):
    """A module whose ``state_dict`` carries the version, and that warns of another major one.

    torch keeps ``_version`` beside the weights for this; SB3's zips and ``policy.save`` take it
    along.
    """

    _version = as_number(__version__)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Take the weights as torch does, after a look at who wrote them."""
        version = as_version(local_metadata.get("version", self._version))
        warn_of_another_major_version(type(self).__name__, version)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
