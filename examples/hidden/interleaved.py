"""Eight conflicting CartPoles that nobody names: train networks, each with several seeds.

    python examples/hidden/interleaved.py runs/hidden --seeds 0 1 2 3 4

Each run that has ended is a file of its own in the folder; those that are there are not run again.
With `--table` it prints the results of those that are there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from scipy import stats
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.callbacks import make_pinned_env
from sb3_moe.policies.belief import BeliefExtractor
from sb3_moe.vec_env import evaluate_tasks

NAMED = "dict"
PREDICT = {"placement": "big", "router": "predict", "net_arch": [16, 16]}
SEEN = {"placement": "big", "net_arch": [16, 16], "num_experts": 8}
NETWORKS: dict[str, dict[str, Any]] = {
    "predict": {**PREDICT, "num_experts": 8},
    "predict-16": {**PREDICT, "num_experts": 16},
    "dense-belief": {
        "placement": "none",
        "net_arch": [48, 48],
        "features_extractor_class": BeliefExtractor,
        "features_extractor_kwargs": {"num_models": 8},
    },
    "dense": {"placement": "none", "net_arch": [30, 30]},
    "soft": {**SEEN, "router": "soft"},
    "uniform": {**SEEN, "router": "uniform"},
    "oracle": {"placement": "big", "router": "task", "task_input": "router", "net_arch": [16, 16]},
}
QUARTERS, EPISODES = 4, 5


def run(network: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one network, and return what its evaluations said."""
    named = network == "oracle"
    env = sb3_moe.make_multitask_vec_env(
        "Conflict/CartPole8",
        n_envs=64,
        seed=seed,
        task_id=NAMED if named else "none",
        history=None if named else 8,
    )
    model = PPO(
        "MoeMultiInputPolicy",
        env,
        n_steps=32,
        batch_size=512,
        n_epochs=4,
        learning_rate=0.01,
        policy_kwargs=NETWORKS[network],
        seed=seed,
        device="cpu",
    )
    pinned = make_pinned_env(env, copies=EPISODES, seed=1000 + seed)
    found: dict[str, Any] = {"network": network, "seed": seed, "steps": steps, "returns": []}
    found["parameters"] = sum(each.numel() for each in model.policy.parameters())
    seconds = 0.0
    for quarter in range(QUARTERS):
        start = time.process_time()
        model.learn(steps // QUARTERS, reset_num_timesteps=quarter == 0)
        seconds += time.process_time() - start
        played = evaluate_tasks(model, pinned, EPISODES, deterministic=False)
        found["returns"].append(played.returns.mean(1).tolist())
    found["steps_per_second"] = steps / seconds
    if model.policy.belief is not None:
        found["information"] = information(model)
    return found


@th.no_grad()
def information(model: PPO) -> float:
    """Return what the belief says of the hidden task, as a share of all that there is to say."""
    history = th.as_tensor(model._last_obs["history"])  # eight environments of each task, in order
    whole = history[:, 0, -1] > 0
    belief_BE = model.policy.belief(history)[whole]
    tasks_B = (th.arange(len(history)) // 8)[whole]
    joint_KE = th.stack([belief_BE[tasks_B == k].sum(0) for k in range(8)]) / len(belief_BE)
    even = joint_KE.sum(0) * joint_KE.sum(1, keepdim=True)
    return float(th.special.xlogy(joint_KE, joint_KE / even.clamp_min(1e-12)).sum() / math.log(8))


def table(folder: Path) -> None:
    """Print the mean of every network, and its difference to `predict`, with 95% t intervals."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    values = {name: {r["seed"]: r for r in runs if r["network"] == name} for name in NETWORKS}
    print("| network | parameters | seeds | area | at the end | information | steps/s |")
    print("|---|---|---|---|---|---|---|")
    for name, own in values.items():
        if own:
            area = [np.mean(r["returns"]) for r in own.values()]
            end = [np.mean(r["returns"][-1]) for r in own.values()]
            told = [r["information"] for r in own.values() if "information" in r]
            speed = np.median([r["steps_per_second"] for r in own.values()])
            first = next(iter(own.values()))["parameters"]
            said = f"{np.mean(told):.2f}" if told else ""
            cells = f"{first} | {len(own)} | {interval(area)} | {interval(end)} | {said}"
            print(f"| `{name}` | {cells} | {speed:,.0f} |")
    print("\n| `predict` minus | seeds of both | area | at the end |\n|---|---|---|---|")
    for name in list(NETWORKS)[1:]:
        seeds = sorted(values["predict"].keys() & values[name].keys())
        pairs = [
            (np.array(values["predict"][s]["returns"]), np.array(values[name][s]["returns"]))
            for s in seeds
        ]
        if pairs:
            area = [ours.mean() - theirs.mean() for ours, theirs in pairs]
            end = [ours[-1].mean() - theirs[-1].mean() for ours, theirs in pairs]
            print(f"| `{name}` | {len(seeds)} | {interval(area)} | {interval(end)} |")


def interval(values: list[float]) -> str:
    """Return a mean with its 95% t interval."""
    if len(values) < 2:
        return f"{values[0]:.0f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.0f} ({np.mean(values) - half:.0f} to {np.mean(values) + half:.0f})"


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=Path)
parser.add_argument("--seeds", type=int, nargs="*", default=[])
parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
parser.add_argument("--steps", type=int, default=163_840)
parser.add_argument("--table", action="store_true")
args = parser.parse_args()
args.folder.mkdir(parents=True, exist_ok=True)
th.set_num_threads(1)
for seed in args.seeds:
    for network in args.networks:
        path = args.folder / f"{network}-{seed}.json"
        if not path.exists():
            path.write_text(json.dumps(run(network, seed, args.steps)))
if args.table:
    table(args.folder)
