"""How fast do policies learn SB3's identity task, by placement and learning rate?

``python -m benchmarks.identity`` trains as SB3's own test of this task does, at the test's learning
rates and at multiples of them. It prints a table: the mean return of 100 steps, and how many seeds
reach SB3's 90.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.envs import IdentityEnv, IdentityEnvBox, IdentityEnvMultiBinary
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import sb3_moe  # noqa: F401  # enters the policies
from sb3_moe.policies.options import DEFAULTS

ENOUGH = 90.0
ENVS = {
    "number": lambda: IdentityEnv(4),
    "bits": lambda: IdentityEnvMultiBinary(4),
    "box": lambda: IdentityEnvBox(eps=0.5),
}
# Task, algorithm, steps, learning rate and the rest, as in SB3's test_identity.
PPO_BATCHES = {"n_steps": 256, "n_epochs": 4}
TASKS: dict[tuple[str, str], dict[str, Any]] = {
    ("number", "A2C"): {"steps": 1200, "learning_rate": 2e-3, "gamma": 0.4},
    ("number", "PPO"): {"steps": 1200, "learning_rate": 2e-3, "gamma": 0.4, **PPO_BATCHES},
    ("number", "DQN"): {"steps": 1200, "learning_rate": 2e-3, "gamma": 0.4, "learning_starts": 0},
    ("bits", "A2C"): {"steps": 1200, "learning_rate": 2e-3, "gamma": 0.4},
    ("bits", "PPO"): {"steps": 1200, "learning_rate": 2e-3, "gamma": 0.4, **PPO_BATCHES},
    ("box", "A2C"): {"steps": 2000, "learning_rate": 1e-3, "gamma": 0.95},
    ("box", "PPO"): {"steps": 1000, "learning_rate": 1e-3, **PPO_BATCHES},
    ("box", "SAC"): {"steps": 400, "learning_rate": 1e-3, "gamma": 0.95},
}
NETS: dict[tuple[str, str], dict[str, Any]] = {
    ("box", "A2C"): {"net_arch": [64, 64], "log_std_init": -0.5},
    ("box", "SAC"): {"net_arch": [64, 64]},
}
POLICIES: dict[str, dict[str, Any]] = {
    "none": {"placement": "none"},
    "middle": {"placement": "middle"},
    "final": {"placement": "final"},
    "big": {"placement": "big"},
}
# A column for mixtures whose outputs start at a dense layer's scale, in versions that have it.
if "match_scale" in DEFAULTS:
    POLICIES["middle, match_scale"] = {"placement": "middle", "match_scale": True}


def learn(task: tuple[str, str], options: Mapping[str, Any], times: float, seed: int) -> float:
    """Train once, and return the mean return of ten episodes of 100 steps.

    :param task: a key of ``TASKS``
    :param options: of the policy
    :param times: factor of SB3's learning rate
    :param seed: of the model
    """
    arguments = dict(TASKS[task])
    steps, rate = arguments.pop("steps"), arguments.pop("learning_rate") * times
    env: gym.Env[Any, Any] = ENVS[task[0]]()
    env.action_space.seed(seed)
    model = getattr(sb3, task[1])(
        "MoeMlpPolicy",
        env,
        learning_rate=rate,
        seed=seed,
        device="cpu",
        policy_kwargs={**NETS.get(task, {}), **options},
        **arguments,
    ).learn(steps)
    return float(evaluate_policy(model, Monitor(env), n_eval_episodes=10)[0])


def cell(returns: list[float]) -> str:
    """Return a mean, and how many reach SB3's threshold."""
    enough = sum(each >= ENOUGH for each in returns)
    return f"{np.mean(returns):.0f} ({enough} of {len(returns)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--times", nargs="+", type=float, default=[0.3, 1.0])
    parser.add_argument("--tasks", nargs="+", default=[*map("-".join, TASKS)])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    th.set_num_threads(1)
    print("| task | learning rate | " + " | ".join(options.policies) + " |")
    print("|---|---|" + "---|" * len(options.policies))
    for task in (task for task in TASKS if "-".join(task) in options.tasks):
        for times in options.times:
            cells = [
                cell([learn(task, POLICIES[name], times, seed) for seed in range(options.seeds)])
                for name in options.policies
            ]
            rate = f"{TASKS[task]['learning_rate'] * times:g}"
            print(f"| {', '.join(task)} | {rate} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
