"""What a second process gives a study: cells per hour of two processes over those of one.

``python -m benchmarks --only study`` prints and writes the row.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.timing import bounded
from sb3_moe.study.run.engine import LocalEngine
from sb3_moe.study.run.jobs import run as run_cells
from sb3_moe.study.run.jobs import survey
from sb3_moe.study.run.view import LiveView
from sb3_moe.study.spec.architectures import named_architecture
from sb3_moe.study.spec.config import CellConfig

ROLLOUT = 64 * 128
STEPS = 4 * ROLLOUT
CELLS = 4
ROUNDS = 3
TARGET = 1.7


def run(rounds: int = ROUNDS, steps: int = STEPS) -> list[dict[str, Any]]:
    """Train the same cells with one process and with two, turn by turn.

    :param rounds: how often
    :param steps: per game of two
    """
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        # The first turn compiles the games.
        _train(1, ROLLOUT, 1, cache)
        for index in range(rounds):
            for processes in (1, 2) if index % 2 == 0 else (2, 1):
                seconds[processes].append(_train(processes, steps, CELLS, cache))
    pairs = zip(seconds[1], seconds[2], strict=True)
    ratio = statistics.median(one / two for one, two in pairs)
    row = bounded("cells per hour, two processes of one thread / one", ratio, TARGET)
    return [row | {"one_s": statistics.median(seconds[1]), "two_s": statistics.median(seconds[2])}]


def _train(processes: int, steps: int, count: int, cache: Path) -> float:
    """Train some cells in a new folder, and return the seconds it took."""
    cells = [
        CellConfig(
            regime="mtrl",
            games=("SpaceInvaders", "Breakout"),
            architecture=named_architecture("soft-big"),
            seed=seed,
            steps_per_task=steps,
        )
        for seed in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        jobs = survey(cells, Path(folder))
        begun = time.perf_counter()
        with LiveView(jobs, Console(file=io.StringIO())) as view:
            run_cells(jobs, LocalEngine(processes, cache), view)
        seconds = time.perf_counter() - begun
        for job in survey(cells, Path(folder)):
            assert job.state.status == "done", job.state
    return seconds
