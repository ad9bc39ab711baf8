"""Where the time of one run of a study goes: ``make run``'s dense network on two games at once.

``python -m benchmarks --only cell``. The run trains in a process of its own, as in a study, whose
folder already holds what ``make run`` measures before it trains. Processor time is measured.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.timing import bounded

AT_LEAST = 0.6
HOW = (
    "The processor's seconds in the process that trains the cell; `ratio` is the share of them. "
    "Programs are the games' steps and resets, traced and compiled, or loaded from the study's "
    "cache, at their first call for a number of copies. What a study does once for all its cells "
    "stands last, and isn't part of them."
)
PROGRAMS = "the games' programs"
TRAINING = "training"


def run() -> list[dict[str, Any]]:
    """Prepare as ``make run`` does, train one run, and return a row for each part of its time."""
    from sb3_moe.study.config import load_study
    from sb3_moe.study.engine import variables
    from sb3_moe.study.folder import survey
    from sb3_moe.study.preparing import check_networks, measure_random_policy

    study = load_study("first-run", regimes=["mtrl"], only=["dense"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jobs = survey(study.runs(), root)
        once = {}
        begun = time.process_time()
        measure_random_policy(study, root)
        once["playing at random"] = time.process_time() - begun
        check_networks([job.run for job in jobs])
        once["building each network"] = time.process_time() - begun - once["playing at random"]
        command = [sys.executable, "-m", "benchmarks.cell", str(jobs[0].folder.path)]
        found = subprocess.run(
            command,
            check=True,
            input=json.dumps(jobs[0].run.to_dict()),
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables(root),
        )
    seconds = json.loads(found.stdout.splitlines()[-1])
    return rows(seconds, once)


def rows(seconds: dict[str, float], once: dict[str, float]) -> list[dict[str, Any]]:
    """Return each part's share of the run's time, the largest first, and what is done once.

    :param seconds: of the run's process, by part
    :param once: seconds of what a study does once, before its runs
    """
    total = sum(seconds.values())
    found = []
    for part, each in sorted(seconds.items(), key=lambda item: item[1], reverse=True):
        at_least = AT_LEAST if part == TRAINING else None
        found.append(bounded(part, each / total, at_least) | {"cpu_s": each})
    for part, each in once.items():
        found.append(bounded(f"once for a study: {part}", each / total) | {"cpu_s": each})
    return found


def main() -> None:
    """Train the run that the standard input describes, and print the seconds of each part."""
    from stable_baselines3 import PPO

    from benchmarks.stopwatch import Stopwatch
    from sb3_moe import callbacks as watching
    from sb3_moe.study import training
    from sb3_moe.study.config import RunConfig
    from sb3_moe.study.folder import RunFolder

    imported = time.process_time()
    watch = Stopwatch(inner=True)
    moments = ("on_step", "on_training_start", "on_rollout_end", "on_training_end")
    kinds = {
        "evaluation": [watching.MultiTaskEvalCallback],
        "measures": [watching.PlasticityCallback, watching.TaskRolloutCallback],
        "snapshots": [watching.SnapshotCallback],
    }
    parts = {part: [(kind, m) for kind in each for m in moments] for part, each in kinds.items()}
    parts["world and network"] = [(training, "_load_or_build")]
    parts[TRAINING] = [(PPO, "learn")]
    with watch.on(parts), first_calls(watch):
        config = RunConfig.from_dict(json.load(sys.stdin))
        training.train_run(config, RunFolder(Path(sys.argv[1])))
    print(json.dumps({"imports": imported, **watch.seconds}))


@contextmanager
def first_calls(watch: Any) -> Iterator[None]:
    """Count the first reset and step of each game, for each number of copies, as its programs."""
    from sb3_moe_envs.vector.gymnax_program import Program

    seen = set()
    original = {name: getattr(Program, name) for name in ("reset", "step")}

    def watched(name: str) -> Any:
        def call(program: Any, keys: Any, *args: Any) -> Any:
            key = (id(program), name, len(keys))
            if key in seen:
                return original[name](program, keys, *args)
            seen.add(key)
            with watch.during(PROGRAMS):
                return original[name](program, keys, *args)

        return call

    for name in original:
        setattr(Program, name, watched(name))
    try:
        yield
    finally:
        for name, method in original.items():
            setattr(Program, name, method)


if __name__ == "__main__":
    main()
