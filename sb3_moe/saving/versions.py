"""Which versions wrote a file."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache

from sb3_moe.version import __version__

_PACKAGES = ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of this package, of what it stands on, and of Python."""
    return {"sb3_moe": __version__, "python": platform.python_version(), **_installed()}


@cache
def _installed() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
