"""What a run ran on: versions, hardware, and the command that started it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from contextlib import suppress
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

#: The variable in which a process that trains is told the command that started the study.
COMMAND = "SB3_MOE_COMMAND"


def provenance() -> dict[str, Any]:
    """Describe this process: ``versions``, ``hardware`` and ``command``."""
    return {
        "versions": {
            "python": platform.python_version(),
            **_versions(),
        },
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
        },
        "command": command(),
    }


def command() -> str:
    """Give the command that started the study as one would type it."""
    if told := os.environ.get(COMMAND):
        return told
    _, *rest = sys.orig_argv
    if rest and Path(rest[0]).name == "sb3-moe":  # without the folder in which it is installed
        return shlex.join(["sb3-moe", *rest[1:]])
    return shlex.join(["python", *rest])


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _processor() -> str:
    """Name the processor: Linux says it in a file, other systems through ``platform``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
