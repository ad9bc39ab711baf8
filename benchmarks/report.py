"""Tables of ratios: printed, and written as JSON and Markdown."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch as th

PACKAGES = (
    "sb3-moe",
    "torch",
    "stable-baselines3",
    "gymnasium",
    "soft-moe-pytorch",
    "st-moe-pytorch",
)
Rows = Sequence[dict[str, Any]]
# How most tables were made.
HOW = "Medians over interleaved rounds, measured side by side in one run."


def machine(device: str) -> dict[str, Any]:
    """Return what the numbers were measured on and with."""
    gpu = th.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "device": gpu or cpu_name(),
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
    }


def installed(package: str) -> str | None:
    """Return a package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(folder: Path, name: str, rows: Rows, about: dict[str, Any], how: str = HOW) -> None:
    """Write ``<name>.json`` and ``<name>.md``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / f"{name}.json", json.dumps({"about": about, "rows": list(rows)}, indent=1))
    replace(folder / f"{name}.md", markdown(name, rows, about, how))


def replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


def markdown(name: str, rows: Rows, about: dict[str, Any], how: str = HOW) -> str:
    """Return the table with what it was measured on, and how, above it."""
    columns = [key for row in rows for key in row if key not in ("name", "ratio", "target", "met")]
    extra = list(dict.fromkeys(columns))
    lines = [f"# {name}", "", ", ".join(f"{key} {value}" for key, value in about.items()), ""]
    lines.append(f"{how}\n")
    header = ["what", "ratio", "target", *extra]
    lines += [" | ".join(["", *header, ""]).strip(), "|" + "---|" * len(header)]
    for row in rows:
        missed = "" if row.get("met", True) else " **missed**"
        cells = [row["name"], f"{row['ratio']:.2f}", f"{row['target']}{missed}"]
        cells += [number(row.get(key)) for key in extra]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: Any) -> str:
    """Return a number to about four digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value)


def show(name: str, rows: Rows, about: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in about.items()))
    for row in rows:
        missed = "" if row.get("met", True) else "missed"
        print(f"{row['ratio']:8.2f} {row['target']:>8} {missed:<7} {row['name']}", flush=True)
