"""Measure what random and reference agents score in the suites' tasks, and keep it as data.

``python -m benchmarks.returns random MinAtar/All5`` plays with random actions;
``python -m benchmarks.returns reference MinAtar/All5`` trains a dense agent on each task alone.
Without suites, all of them; for references, all that there is a recipe for.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch as th
from gymnasium.spaces import Discrete

from benchmarks.recipes import RECIPES, recipe_for
from sb3_moe.callbacks import evaluate_tasks, make_pinned_env
from sb3_moe.measures.scores import FILE, Agent
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe_envs import SUITES
from sb3_moe_envs.schedules import Interleave, Sequence

COPIES = 10
EPISODES = 200
ATARI_EPISODES = 20  # fewer, since they are long
SEEDS = 3
REFERENCE_EPISODES = 100


class RandomAgent:
    """Stand in for a model in ``evaluate_tasks``, with actions drawn uniformly."""

    def __init__(self, env: Any, seed: int) -> None:
        self.env = env
        self.rng = np.random.default_rng(seed)

    def predict(self, obs: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        """Draw an action for every copy."""
        space, count = self.env.action_space, self.env.num_envs
        if isinstance(space, Discrete):
            return self.rng.integers(0, space.n, count), state
        return self.rng.uniform(space.low, space.high, (count, *space.shape)), state


def measure_random(suite: str, seed: int = 0) -> dict[str, Any]:
    """Play every task of a suite, in the spaces that its agents see."""
    names = _tasks(suite)
    env = make_multitask_vec_env(suite, COPIES * len(names), seed=seed, schedule=Interleave())
    episodes = ATARI_EPISODES if suite.startswith("Atari/") else EPISODES
    agent: Any = RandomAgent(env, seed)
    returns = evaluate_tasks(agent, env, episodes).returns
    env.close()
    return {name: _measured(row, episodes) for name, row in zip(names, returns, strict=True)}


def measure_reference(suite: str, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Train agents on every task of a suite alone, and play it with each of them."""
    names = _tasks(suite)
    runs = [(suite, name, seed) for name in names for seed in range(SEEDS)]
    means = np.array(list(pool.map(train_one, runs))).reshape(len(names), SEEDS)
    return {
        name: _measured(row, REFERENCE_EPISODES, SEEDS, recipe_for(suite, name).label)
        for name, row in zip(names, means, strict=True)
    }


def train_one(run: tuple[str, str, int]) -> float:
    """Train on one task of a suite, and return the mean return of the agent."""
    suite, task, seed = run
    th.set_num_threads(1)
    recipe = recipe_for(suite, task)
    alone = Sequence([(task, recipe.steps)])
    # With seed s, environment i has seed s + i: seeds far apart share no episodes.
    env = make_multitask_vec_env(suite, recipe.n_envs, 1000 * seed, schedule=alone)
    model = recipe.algorithm(
        "MoeMultiInputPolicy", env, seed=seed, device="cpu", **recipe.arguments
    )
    model.learn(recipe.steps)
    pinned = make_pinned_env(env, COPIES, seed=10**6 + seed)
    returns = evaluate_tasks(model, pinned, REFERENCE_EPISODES, recipe.deterministic).returns
    mean = float(returns[_tasks(suite).index(task)].mean())
    print(f"{suite} {task}, seed {seed}: {mean:.2f}", flush=True)
    return mean


def _tasks(suite: str) -> list[str]:
    return [task.name for task in SUITES[suite].tasks]


def _measured(
    values: np.ndarray, episodes: int, agents: int = 1, agent: str = "uniformly random actions"
) -> dict[str, Any]:
    """Return the mean and its standard error, over episodes of one agent or over several agents."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    found = {"mean": _rounded(values.mean()), "standard_error": _rounded(error)}
    return found | {"episodes": episodes, "agents": agents, "agent": agent}


def _rounded(value: float) -> float:
    return round(float(value), 3)


def keep(agent: Agent, suite: str, measured: dict[str, Any]) -> None:
    """Put the numbers of a suite into the file that holds them, in the suites' order."""
    data = json.loads(FILE.read_text())
    data[agent][suite] = measured
    data[agent] = {name: data[agent][name] for name in SUITES if name in data[agent]}
    temporary = FILE.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(temporary, FILE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.returns", description=__doc__)
    parser.add_argument("agent", choices=("random", "reference"), help="what plays")
    parser.add_argument("suites", nargs="*", help=", ".join(SUITES))
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="for training")
    arguments = parser.parse_args()
    random = arguments.agent == "random"
    known_suites = SUITES if random else RECIPES
    unknown = [suite for suite in arguments.suites if suite not in known_suites]
    if unknown:
        parser.error(f"suites must be among {', '.join(known_suites)}, got {unknown}")
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        known: dict[str, dict[str, Any]] = {}
        for suite in arguments.suites or known_suites:
            tasks = repr(SUITES[suite].tasks)  # two suites may differ in their schedule only
            if tasks not in known:
                known[tasks] = measure_random(suite) if random else measure_reference(suite, pool)
            keep(arguments.agent, suite, known[tasks])
            print(suite, {name: each["mean"] for name, each in known[tasks].items()}, flush=True)


if __name__ == "__main__":
    main()
