"""``python -m benchmarks``: ratios against peers, measured side by side in one run."""

import importlib
import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch as th
import tyro

from benchmarks import report
from sb3_moe.study.engine import KEPT_MEMORY

Name = Literal[
    "layers",
    "training",
    "profiles",
    "worlds",
    "callbacks",
    "idle",
    "study",
    "cell",
    "start_scale",
    "saving",
    "growth",
    "memory",
    "device",
    "metaworld",
]
# Run only if named: `memory` trains for millions of steps, `metaworld` needs an extra.
ALONE = ("memory", "metaworld")
NAMES: tuple[Name, ...] = tuple(name for name in get_args(Name) if name not in ALONE)
# Small networks train fastest on one thread; layers may be used in larger networks.
ALL_THREADS = ("layers",)
# Else the layout of the heap decides, by luck, which networks' tensors cost page faults.
KEEPING = ("layers", "training")


@dataclass
class Options:
    """Measure, print, and write tables to a folder.

    :param only: which benchmarks to run; ``memory`` and ``metaworld`` run only if named
    :param device: where layers and policies run
    :param threads: torch's threads; 0 means 1 and, for layers, also as many as there are cores.
        Another number runs in this process, with its own settings of freed memory
    :param out: where the tables go
    """

    only: tuple[Name, ...] = NAMES
    device: str = "cpu"
    threads: int = 0
    out: Path = Path("benchmarks/results")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.threads:
        th.set_num_threads(options.threads)
        for name in options.only:
            run(name, options)
        return
    for name in options.only:
        for threads in thread_counts(name):
            in_a_fresh_process(name, threads, options)


def in_a_fresh_process(name: Name, threads: int, options: Options) -> None:
    """Run a benchmark in its own process: memory that another one freed speeds up large tensors."""
    arguments = ["--only", name, "--threads", str(threads), "--device", options.device]
    command = [sys.executable, "-m", "benchmarks", *arguments, "--out", str(options.out)]
    environment = os.environ | (KEPT_MEMORY if name in KEEPING else {})
    subprocess.run(command, check=True, env=environment)


def thread_counts(name: Name) -> list[int]:
    """Return the thread counts to measure with."""
    cores = os.cpu_count() or 1
    return sorted({1, cores}) if name in ALL_THREADS else [1]


def run(name: Name, options: Options) -> None:
    """Run one benchmark, print its table and write it."""
    benchmark = importlib.import_module(f"benchmarks.{name}")
    takes_device = "device" in inspect.signature(benchmark.run).parameters
    rows = benchmark.run(device=options.device) if takes_device else benchmark.run()
    if not rows:
        return
    about = {"threads": th.get_num_threads(), **report.machine(options.device)}
    title = f"{name}-{options.device}-{th.get_num_threads()}-threads".replace(":", "")
    report.show(title, rows, about)
    report.write(options.out, title, rows, about, getattr(benchmark, "HOW", report.HOW))
    if hasattr(benchmark, "draw"):
        benchmark.draw(rows, options.out / f"{title}.png")


if __name__ == "__main__":
    main()
