"""What a second process gives a study: runs per hour of two processes over those of one.

``python -m benchmarks --only study`` prints and writes the row.
"""

import io
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.timing import bounded
from sb3_moe.study.config import RunConfig, named_architecture
from sb3_moe.study.engine import LocalEngine, run_jobs, variables
from sb3_moe.study.folder import survey

ROLLOUT = 64 * 128
STEPS = 4 * ROLLOUT
RUNS = 4
ROUNDS = 3
TARGET = 1.7


def run(rounds: int = ROUNDS, steps: int = STEPS) -> list[dict[str, Any]]:
    """Train the same runs with one process and with two, turn by turn.

    :param rounds: how often
    :param steps: of each of the two games
    """
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(variables(Path(folder)) | os.environ)
        # The first turn compiles the games.
        _train(1, ROLLOUT, 1)
        for index in range(rounds):
            for processes in (1, 2) if index % 2 == 0 else (2, 1):
                seconds[processes].append(_train(processes, steps, RUNS))
    pairs = zip(seconds[1], seconds[2], strict=True)
    ratio = statistics.median(one / two for one, two in pairs)
    row = bounded("runs per hour, two processes of one thread / one", ratio, TARGET)
    return [row | {"one_s": statistics.median(seconds[1]), "two_s": statistics.median(seconds[2])}]


def _train(processes: int, steps: int, count: int) -> float:
    """Train some runs in a new folder, and return the seconds it took."""
    runs = [
        RunConfig(
            regime="mtrl",
            games=("SpaceInvaders", "Breakout"),
            architecture=named_architecture("soft-big"),
            seed=seed,
            steps_per_task=steps,
        )
        for seed in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        jobs = survey(runs, Path(folder))
        begun = time.perf_counter()
        run_jobs(jobs, LocalEngine(processes), Console(file=io.StringIO()))
        seconds = time.perf_counter() - begun
        for job in survey(runs, Path(folder)):
            assert job.state.status == "done", job.state
    return seconds
