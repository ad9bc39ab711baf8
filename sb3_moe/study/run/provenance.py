"""What a run ran on: versions, hardware, and the command that started it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "sb3-moe",
    "stable-baselines3",
    "sb3-contrib",
    "gymnasium",
    "gymnax",
    "jax",
    "torch",
    "numpy",
    "scipy",
)

SCRIPTS = ("sb3-moe",)

#: The variable in which a process that trains is told the command that started the study.
COMMAND = "SB3_MOE_COMMAND"


def provenance() -> dict[str, Any]:
    """Describe this process: ``versions``, ``hardware`` and ``command``."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
        },
        "command": command(),
    }


def command() -> str:
    """Give the command that started the study; of another program's, this process's own."""
    return os.environ.get(COMMAND) or _command(sys.orig_argv)


def _command(arguments: Sequence[str]) -> str:
    """Give the command as one would type it: a console script without the folder it lies in."""
    _, *rest = arguments
    if rest and Path(rest[0]).name in SCRIPTS:
        return shlex.join([Path(rest[0]).name, *rest[1:]])
    return shlex.join(["python", *rest])


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Name the processor: Linux says it in a file, other systems through ``platform``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
