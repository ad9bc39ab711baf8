"""What a run ran on: versions, hardware, and the command that started it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
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
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }


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
