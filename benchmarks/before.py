"""Training with experts against the code before: ``python -m benchmarks.before <its checkout>``.

Both codes train in processes of their own, one thread each, a rollout at a time and turn by turn;
what counts is the processor's time, so that whoever else uses the machine matters little. Make a
checkout with ``git worktree add <folder> <commit>``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.timing import bounded, ratio

ROOT = Path(__file__).resolve().parents[1]
STEPS = 64 * 128
# Name, options of the policy, and the ratio that we mean to reach.
CASES: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("SoftMoE-Big, 4 experts", {"placement": "big", "num_experts": 4}, 1.25),
    ("SoftMoE-Middle, 8 experts", {"placement": "middle", "num_experts": 8}, 1.15),
)
# Only names that version 0.1.0 has. Each line read is one turn, answered with its seconds.
CHILD = """
import ast, sys, time
import torch
torch.set_num_threads(1)
from stable_baselines3 import PPO
import sb3_moe
from sb3_moe.presets import MINATAR_PPO
from sb3_moe.vec_env import GymnasiumVecEnv
from sb3_moe_envs.minatar import MinAtarVectorEnv
options, steps = MINATAR_PPO["policy_kwargs"] | ast.literal_eval(sys.argv[1]), int(sys.argv[2])
arguments = MINATAR_PPO | {"policy_kwargs": options, "seed": 0, "device": "cpu"}
env = GymnasiumVecEnv(MinAtarVectorEnv("Breakout", 64))
model = PPO("MoeMlpPolicy", env, **arguments).learn(steps)
for line in sys.stdin:
    begun = time.process_time()
    model.learn(steps, reset_num_timesteps=False)
    print(time.process_time() - begun, flush=True)
"""


@dataclass
class Options:
    """Print how much faster this code trains than the one before.

    :param checkout: root of the code before
    :param rounds: turns of each code per comparison
    """

    checkout: tyro.conf.Positional[Path]
    rounds: int = 9


def compare(
    name: str,
    options: dict[str, Any],
    at_least: float,
    checkout: Path,
    rounds: int,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Train one policy with both codes, turn by turn, and return a row.

    :param name: of the policy
    :param options: its arguments
    :param at_least: the ratio that we mean to reach
    :param checkout: root of the code before
    :param rounds: turns of each code
    :param steps: environment steps per turn
    """
    roots = {"now": ROOT, "before": checkout.resolve()}
    children = {code: start(root, options, steps) for code, root in roots.items()}
    seconds: dict[str, list[float]] = {code: [] for code in roots}
    try:
        for index in range(rounds):
            for code in list(roots)[:: 1 if index % 2 == 0 else -1]:
                seconds[code].append(turn(children[code]))
    finally:
        for child in children.values():
            child.communicate()
    title = f"{name}, now / before, steps per CPU second, PPO, MinAtar Breakout, 64 copies"
    row = bounded(title, ratio(seconds["before"], seconds["now"]), at_least)
    medians = {code: statistics.median(each) for code, each in seconds.items()}
    return row | {f"{code}_steps_per_s": steps / each for code, each in medians.items()}


def start(root: Path, options: dict[str, Any], steps: int) -> subprocess.Popen[str]:
    """Start a process that trains with the code of one checkout."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = os.environ | threads | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'envs'}"}
    command = [sys.executable, "-c", CHILD, repr(options), str(steps)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=root, env=environment, **pipes)


def turn(child: subprocess.Popen[str]) -> float:
    """Let a process train for one turn, and return its seconds."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    return float(child.stdout.readline())


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    for case in CASES:
        row = compare(*case, options.checkout, options.rounds)
        missed = "" if row["met"] else "missed"
        rates = f"{row['now_steps_per_s']:,.0f} against {row['before_steps_per_s']:,.0f} steps/s"
        print(
            f"{row['ratio']:6.2f} {row['target']:>7} {missed:<7} {row['name']}: {rates}", flush=True
        )


if __name__ == "__main__":
    main()
