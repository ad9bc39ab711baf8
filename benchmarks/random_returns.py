"""Measure what uniformly random actions score in every task of the suites, and keep it as data.

``python -m benchmarks.random_returns MinAtar/All5 Classic/Mixed3`` measures these suites again;
without names, all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from sb3_moe.callbacks import evaluate_tasks
from sb3_moe.metrics.returns import RANDOM, Measured
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe_envs import SUITES
from sb3_moe_envs.schedules import Interleave

FILE = Path(__file__).parent.parent / "sb3_moe" / "metrics" / "returns.py"
COPIES = 10
EPISODES = {"MinAtar": 200, "Classic": 200, "MuJoCo": 200, "Atari": 20}


class RandomAgent:
    """What ``evaluate_tasks`` asks of a model, with actions drawn uniformly."""

    def __init__(self, env: Any, seed: int) -> None:
        self.env = env
        self.rng = np.random.default_rng(seed)

    def predict(self, obs: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        """Draw an action for every copy."""
        space, count = self.env.action_space, self.env.num_envs
        if isinstance(space, Discrete):
            return self.rng.integers(0, space.n, count), state
        return self.rng.uniform(space.low, space.high, (count, *space.shape)), state


def measure(suite: str, seed: int = 0) -> dict[str, Measured]:
    """Play every task of a suite, in the spaces that its agents see."""
    names = [task.name for task in SUITES[suite].tasks]
    n_envs = COPIES * len(names)
    env = make_multitask_vec_env(suite, n_envs, seed=seed, schedule=Interleave())
    episodes = EPISODES[suite.partition("/")[0]]
    agent: Any = RandomAgent(env, seed)
    returns = evaluate_tasks(agent, env, episodes).returns
    env.close()
    errors = returns.std(axis=1, ddof=1) / np.sqrt(episodes)
    rows = zip(names, returns.mean(1), errors, strict=True)
    return {n: Measured(round(float(m), 3), round(float(e), 3), episodes) for n, m, e in rows}


def write(measured: dict[str, dict[str, Measured]]) -> None:
    """Put the numbers into the module that holds them."""
    head, _, _ = FILE.read_text().partition("RANDOM:")
    lines = ["RANDOM: dict[str, dict[str, Measured]] = {"]
    for suite, tasks in measured.items():
        lines.append(f'    "{suite}": {{')
        lines += [f'        "{name}": Measured{tuple(row)},' for name, row in tasks.items()]
        lines.append("    },")
    FILE.write_text(head + "\n".join([*lines, "}"]) + "\n")


def main() -> None:
    measured = dict(RANDOM)
    for suite in sys.argv[1:] or SUITES:
        measured[suite] = measure(suite)
        write({name: measured[name] for name in SUITES if name in measured})
        print(suite, measured[suite])


if __name__ == "__main__":
    main()
