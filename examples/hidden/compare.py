"""Tasks that nobody names: train networks, each with several seeds.

    python examples/hidden/compare.py long results.csv --seeds 30 31 32
    python examples/hidden/compare.py in_turn results.csv --seeds 10 11 12
    python examples/hidden/compare.py goals results.csv --seeds 10 11 12
    python examples/hidden/compare.py physics results.csv --seeds 10 11 12

Each evaluation of a run is a row of the table; runs that the table has are not run again.
"""

import argparse
import csv
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch as th
from controls import PredictingExtractor
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import sb3_moe
from sb3_moe.callbacks import NewTaskCallback, make_pinned_env
from sb3_moe.vec_env import evaluate_tasks
from sb3_moe_envs.schedules import Cycle

EPISODES, MOST_TASKS = 5, 8
BIG = {"placement": "big", "net_arch": [16, 16]}
PPO_SETTINGS = {"n_steps": 32, "batch_size": 512, "n_epochs": 4}


class Setting(NamedTuple):
    """Where networks are compared.

    :param suite: of tasks
    :param num_tasks: how many they are
    :param part: steps before each evaluation; if tasks come in turn, of one visit of a task
    :param parts: how many evaluations a run has
    :param models: options of the belief's models
    """

    suite: str
    num_tasks: int
    part: int
    parts: int
    models: Mapping[str, Any] = MappingProxyType({})


REWARDS = {"predicts": "reward", "hidden": [32]}
SETTINGS = {
    "long": Setting("Conflict/CartPole8", 8, 122_880, 8),
    "in_turn": Setting("Conflict/CartPole8", 8, 65_536, 16),
    "goals": Setting("Goal/CartPole4", 4, 40_960, 6, REWARDS),
    "physics": Setting("Physics/Pendulum4", 4, 5_120, 6),
}


def dense_predicting(width: int) -> dict[str, Any]:
    """Return a dense network whose first layer also learns to predict the next observation."""
    extractor = {"features_extractor_class": PredictingExtractor, "share_features_extractor": False}
    return {"net_arch": [width], **extractor, "features_extractor_kwargs": {"width": width}}


class Network(NamedTuple):
    """A network.

    :param options: of its policy
    :param sees: arguments of the environment: what it sees beside the current observation
    :param policy: the policy's name
    """

    options: dict[str, Any]
    sees: Mapping[str, Any] = MappingProxyType({})
    policy: str = "MultiInputPolicy"


def experts(models: int, **belief: Any) -> Network:
    """Return an expert for each model of a belief, which weighs them."""
    sees = {"belief": {"num_models": models, **belief}}
    return Network({**BIG, "router": "belief"}, sees, "MoeMultiInputPolicy")


def dense_belief(width: int, models: int) -> Network:
    """Return SB3's own network, which sees the belief of a number of models."""
    return Network({"net_arch": [width, width]}, {"belief": {"num_models": models}})


HISTORY = {"history": 8}
BY_ID = {"task_id": "dict"}
NETWORKS: dict[str, Network] = {
    "belief-8": experts(8),
    "belief-16": experts(16),
    "belief-grow": Network(
        {**BIG, "router": "belief", "top_k": 1},
        {"belief": {"num_models": 16, "active": 2}},
        "MoeMultiInputPolicy",
    ),
    "dense-belief-8": dense_belief(48, 8),
    "dense-belief-16": dense_belief(67, 16),
    "dense-history": Network({"net_arch": [50, 50]}, HISTORY),
    "dense-predicting": Network(dense_predicting(50), HISTORY),
    # One step of history is the action and the reward that led to the current observation.
    "lstm": Network(
        {"net_arch": [32], "lstm_hidden_size": 32}, {"history": 1}, "MultiInputLstmPolicy"
    ),
    "soft": Network({**BIG, "router": "soft", "num_experts": 8}, HISTORY, "MoeMultiInputPolicy"),
    "uniform": Network(
        {**BIG, "router": "uniform", "num_experts": 8}, HISTORY, "MoeMultiInputPolicy"
    ),
    "oracle": Network(
        {**BIG, "router": "task", "task_input": "router"}, BY_ID, "MoeMultiInputPolicy"
    ),
    "dense-frame": Network({"net_arch": [51, 51]}, {}, "MlpPolicy"),
}
# For SAC on a Pendulum, with about 10,000 parameters in each network. Those of `uniform` would be
# as many if its experts didn't see the history.
_WIDE = {"placement": "big", "net_arch": [32, 32]}
PENDULUM_NETWORKS: dict[str, Network] = {
    "belief-8": experts(8)._replace(options={**_WIDE, "router": "belief"}),
    "dense-belief-8": dense_belief(94, 8),
    "dense-history": Network({"net_arch": [78, 78]}, HISTORY),
    "uniform": NETWORKS["uniform"]._replace(
        options={**_WIDE, "router": "uniform", "num_experts": 8}
    ),
    "oracle": NETWORKS["oracle"]._replace(
        options={**_WIDE, "router": "task", "task_input": "router"}
    ),
    "dense-frame": Network({"net_arch": [98, 98]}, {}, "MlpPolicy"),
}
# The learning rates that the development runs chose.
RATES: dict[str, dict[str, float]] = {
    "long": {
        "belief-8": 0.01,
        "belief-16": 0.003,
        "dense-belief-8": 0.003,
        "dense-belief-16": 0.003,
    },
    "in_turn": {"belief-16": 0.003, "belief-grow": 0.003, "dense-belief-8": 0.001},
    "goals": {"belief-8": 0.01, "dense-belief-8": 0.01},
    "physics": dict.fromkeys(PENDULUM_NETWORKS, 0.001),
}
FIELDS = ["experiment", "network", "rate", "seed", "parameters", "steps_per_second"]
FIELDS += [
    "information",
    "told_apart",
    "new_tasks",
    "steps",
    *(f"task_{k}" for k in range(MOST_TASKS)),
]


def make(experiment: str, name: str, rate: float, seed: int, visit: int = 1) -> BaseAlgorithm:
    """Build a network and its environments; in turn, a visit of a task takes `visit` steps."""
    setting = SETTINGS[experiment]
    network = (PENDULUM_NETWORKS if experiment == "physics" else NETWORKS)[name]
    sees = {"task_id": "info", **network.sees}
    if "belief" in sees:
        sees["belief"] = {**setting.models, **sees["belief"]}
    env = sb3_moe.make_multitask_vec_env(
        setting.suite,
        n_envs=8 if experiment == "physics" else 64,
        seed=seed,
        schedule=Cycle(steps_per_task=visit, num_cycles=2) if experiment == "in_turn" else None,
        **sees,
    )
    shared: dict[str, Any] = {"policy_kwargs": network.options, "learning_rate": rate}
    shared |= {"seed": seed, "device": "cpu"}
    if experiment == "physics":  # half as many updates as transitions
        return SAC(network.policy, env, learning_starts=1000, gradient_steps=4, **shared)
    if name == "lstm":
        return RecurrentPPO(network.policy, env, **{**PPO_SETTINGS, "n_steps": 128}, **shared)
    return PPO(network.policy, env, **PPO_SETTINGS, **shared)


def run(
    experiment: str, network: str, rate: float, seed: int, steps: int, parts: int
) -> list[dict[str, Any]]:
    """Train one network, and return a row for each evaluation: one after each part's steps."""
    model = make(experiment, network, rate, seed, steps)
    played_env = make_pinned_env(model.get_env(), copies=EPISODES)
    callback = NewTaskCallback(add_expert=True) if network == "belief-grow" else None
    seconds = 0.0
    row: dict[str, Any] = {"experiment": experiment, "network": network, "rate": rate, "seed": seed}
    row["parameters"] = sum(each.numel() for each in model.policy.parameters())
    rows = []
    for part in range(parts):
        start = time.process_time()
        model.learn(steps, callback, reset_num_timesteps=part == 0)
        seconds += time.process_time() - start
        played_env.seed(1000 + seed)  # the same episodes each time, and for each network
        returns = evaluate_tasks(model, played_env, EPISODES, deterministic=False).returns.mean(1)
        tasks = {f"task_{k}": round(float(each), 1) for k, each in enumerate(returns)}
        rows.append({"steps": model.num_timesteps, **tasks})
    row["steps_per_second"] = round(steps * parts / seconds)
    if "belief" in getattr(played_env.observation_space, "spaces", {}):
        row["information"], row["told_apart"] = said_of_tasks(
            model, played_env, SETTINGS[experiment].num_tasks
        )
    if callback is not None:
        row["new_tasks"] = callback.noticed
    return [row | each for each in rows]


def said_of_tasks(model: BaseAlgorithm, env: VecEnv, num_tasks: int) -> tuple[float, int]:
    """Return how much the belief tells of the task, and how many tasks have a model of their own.

    The first is the mutual information of model and task, as a share of its maximum, over the steps
    of an episode from the seventh on. A task has a model of its own if its likeliest model is no
    other task's.
    """
    obs = env.reset()
    joint_KE = np.zeros((num_tasks, obs["belief"].shape[1]))
    steps_B = np.zeros(env.num_envs, int)
    for _ in range(64):
        obs, _, dones, infos = env.step(model.predict(obs)[0])
        steps_B = np.where(dones, 0, steps_B + 1)
        tasks_B = np.array([info["task_id"] for info in infos])
        late = steps_B >= 7
        np.add.at(joint_KE, tasks_B[late], obs["belief"][late])
    joint_KE /= joint_KE.sum(1, keepdims=True) * num_tasks
    likeliest = joint_KE.argmax(1).tolist()
    even_KE = joint_KE.sum(0) * joint_KE.sum(1, keepdims=True)
    shares_KE = joint_KE * np.log(np.maximum(joint_KE, 1e-12) / np.maximum(even_KE, 1e-12))
    alone = sum(likeliest.count(each) == 1 for each in likeliest)
    return round(float(shares_KE.sum() / math.log(num_tasks)), 3), alone


def main() -> None:
    """Train the runs that the table does not have."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=SETTINGS)
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="default: those compared")
    parser.add_argument("--rates", type=float, nargs="+", help="default: each network's own")
    parser.add_argument("--parts", type=int, help="evaluations until a run ends")
    parser.add_argument("--steps", type=int, help="steps until an evaluation; in turn, of a visit")
    args = parser.parse_args()
    th.set_num_threads(1)
    if not args.table.exists():
        args.table.write_text(",".join(FIELDS) + "\n")
    for seed in args.seeds:
        for network in args.networks or RATES[args.experiment]:
            for rate in args.rates or [RATES[args.experiment][network]]:
                with args.table.open() as file:
                    done = [[r[f] for f in FIELDS[:4]] for r in csv.DictReader(file)]
                if [args.experiment, network, str(rate), str(seed)] in done:
                    continue
                setting = SETTINGS[args.experiment]
                steps, parts = args.steps or setting.part, args.parts or setting.parts
                rows = run(args.experiment, network, rate, seed, steps, parts)
                with args.table.open("a", newline="") as file:
                    csv.DictWriter(file, FIELDS, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
