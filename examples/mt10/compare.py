"""Train PPO on ten tasks of Meta-World (MT10), each network with several seeds.

    python examples/mt10/compare.py probe.csv --seeds 100 --rates 3e-4 1e-3 --steps 3000000
    python examples/mt10/compare.py random.csv --networks random --seeds 100

Each evaluation of a run is a row of the table, written when the run ends; runs that the table has
are not trained again. It needs the extra `envpool`.
"""

import argparse
import csv
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import sb3_moe
from sb3_moe import presets
from sb3_moe.callbacks import PopArtCallback, TaskAdvantageCallback, make_pinned_env
from sb3_moe.vec_env import evaluate_tasks

SUITE, ENVIRONMENTS, EPISODES, EVALUATIONS = "MetaWorld/MT10-EnvPool", 40, 10, 10
PPO_SETTINGS = {"n_steps": 500, "batch_size": 1000, "n_epochs": 10, "gae_lambda": 0.97}
# Each has about 80,000 parameters in the actor, and as many in the critic.
NETWORKS: dict[str, dict[str, Any]] = {
    "dense": presets.with_policy(presets.BALANCED_PPO, net_arch=[256, 256]),
    "experts": presets.with_policy(
        presets.BALANCED_PPO,
        placement="big",
        router="task",
        task_input="router",
        head_router=None,
        net_arch=[70, 70],
    ),
    "plain": {"policy_kwargs": {"placement": "none", "net_arch": [259, 259]}},
}
KEY = ["network", "rate", "seed"]
FIELDS = [*KEY, "parameters", "steps_per_second", "steps", *(f"task_{k}" for k in range(10))]


def make(network: str, rate: float, seed: int) -> PPO:
    """Build a network and its environments, four of each task."""
    env = sb3_moe.make_multitask_vec_env(SUITE, n_envs=ENVIRONMENTS, seed=seed)
    env = VecNormalize(env, norm_reward=network == "plain", norm_obs_keys=["obs"])
    arguments = {**PPO_SETTINGS, **NETWORKS[network]}
    arguments["policy_kwargs"]["log_std_init"] = -0.5
    return PPO("MoeMultiInputPolicy", env, learning_rate=rate, seed=seed, device="cpu", **arguments)


def train(network: str, rate: float, seed: int, steps: int) -> list[dict[str, Any]]:
    """Train one network, and return a row for each evaluation: the success rate of each task."""
    model = make(network, rate, seed)
    played_env = make_pinned_env(model.get_env())
    callbacks = [] if network == "plain" else [PopArtCallback(), TaskAdvantageCallback()]
    rows, seconds = [], 0.0
    for number in range(EVALUATIONS):
        start = time.process_time()
        model.learn(steps // EVALUATIONS, callbacks, reset_num_timesteps=number == 0)
        seconds += time.process_time() - start
        rows.append({"steps": model.num_timesteps, **successes(model, played_env, seed)})
        print(network, rate, seed, *rows[-1].values(), f"{seconds:.0f}", flush=True)
    run = dict(zip(KEY, (network, rate, seed), strict=True))
    run["parameters"] = sum(each.numel() for each in model.policy.parameters())
    run["steps_per_second"] = round(model.num_timesteps / seconds)
    return [run | row for row in rows]


def successes(model: Any, env: VecEnv, seed: int) -> dict[str, float]:
    """Play the same episodes each time, and return the share that succeeds by task."""
    env.seed(1000 + seed)
    shares = evaluate_tasks(model, env, EPISODES).successes.mean(1)
    return {f"task_{k}": round(float(share), 2) for k, share in enumerate(shares)}


def play_at_random(seed: int) -> list[dict[str, Any]]:
    """Return the success rates of uniformly random actions, from ten times as many episodes."""
    env = sb3_moe.make_multitask_vec_env(SUITE, n_envs=ENVIRONMENTS, seed=seed)
    env.action_space.seed(seed)

    def act(obs: Any, *args: Any, **kwargs: Any) -> Any:
        return [env.action_space.sample() for _ in obs["task_id"]], None

    played = evaluate_tasks(SimpleNamespace(predict=act), env, 10 * EPISODES)
    shares = {f"task_{k}": float(share) for k, share in enumerate(played.successes.mean(1))}
    return [{"network": "random", "rate": 0.0, "seed": seed, **shares}]


def main() -> None:
    """Train the runs that the table does not have."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--networks", nargs="+", default=["dense", "experts"])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--steps", type=int, default=7_000_000)
    args = parser.parse_args()
    th.set_num_threads(1)
    if not args.table.exists():
        args.table.write_text(",".join(FIELDS) + "\n")
    todo = [(n, r, s) for s in args.seeds for n in args.networks for r in args.rates]
    for network, rate, seed in todo:
        with args.table.open() as file:
            done = [[row[name] for name in KEY] for row in csv.DictReader(file)]
        if [network, str(rate), str(seed)] in done:
            continue
        is_random = network == "random"
        rows = play_at_random(seed) if is_random else train(network, rate, seed, args.steps)
        with args.table.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
