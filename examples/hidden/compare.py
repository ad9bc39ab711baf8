"""Tasks that nobody names: train networks, each with several seeds.

    python examples/hidden/compare.py interleaved results.csv --seeds 10 11 12
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
from pathlib import Path
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
from sb3_moe.policies.belief import BeliefExtractor
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
    :param predicts: what the models of a belief predict
    """

    suite: str
    num_tasks: int
    part: int
    parts: int
    predicts: str = "transition"


SETTINGS = {
    "interleaved": Setting("Conflict/CartPole8", 8, 40_960, 6),
    "long": Setting("Conflict/CartPole8", 8, 122_880, 8),
    "in_turn": Setting("Conflict/CartPole8", 8, 32_768, 16),
    "goals": Setting("Goal/CartPole4", 4, 40_960, 6, predicts="reward"),
    "physics": Setting("Physics/Pendulum4", 4, 5_120, 6),
}


def dense(width: int) -> dict[str, Any]:
    """Return the options of a dense network with two hidden layers."""
    return {"placement": "none", "net_arch": [width, width]}


def dense_belief(width: int, models: int, **options: Any) -> dict[str, Any]:
    """Return a dense network that sees the belief of a number of models as an input."""
    extractor = {"features_extractor_class": BeliefExtractor}
    kwargs = {"num_models": models, **options}
    return {**dense(width), **extractor, "features_extractor_kwargs": kwargs}


def dense_predicting(width: int) -> dict[str, Any]:
    """Return a dense network whose first layer also learns to predict the next observation."""
    extractor = {"features_extractor_class": PredictingExtractor, "share_features_extractor": False}
    return {"net_arch": [width], **extractor, "features_extractor_kwargs": {"width": width}}


# A network's options, and what it sees beside the current observation.
NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "predict-8": ({**BIG, "router": "predict", "num_experts": 8}, "history"),
    "predict-16": ({**BIG, "router": "predict", "num_experts": 16}, "history"),
    "predict-8-both": (
        {
            **BIG,
            "router": "predict",
            "num_experts": 8,
            "features_extractor_kwargs": {"shown": "both"},
        },
        "history",
    ),
    "predict-8-hidden": (
        {
            **BIG,
            "router": "predict",
            "num_experts": 8,
            "features_extractor_kwargs": {"hidden": [16]},
        },
        "history",
    ),
    "predict-grow": ({**BIG, "router": "predict", "num_experts": 2, "top_k": 1}, "history"),
    "dense-belief-8": (dense_belief(48, 8), "history"),
    "dense-belief-8-hidden": (dense_belief(48, 8, hidden=[16]), "history"),
    "dense-belief-16": (dense_belief(67, 16), "history"),
    "dense-belief-128": (dense_belief(128, 16), "history"),
    "dense-history": (dense(30), "history"),
    "dense-history-wide": (dense(50), "history"),
    "dense-history-128": (dense(128), "history"),
    "dense-predicting": (dense_predicting(50), "history"),
    # One step of history is the action and the reward that led to the current observation.
    "lstm": ({"net_arch": [32], "lstm_hidden_size": 32}, "last step"),
    "soft": ({**BIG, "router": "soft", "num_experts": 8}, "history"),
    "uniform": ({**BIG, "router": "uniform", "num_experts": 8}, "history"),
    "oracle": ({**BIG, "router": "task", "task_input": "router"}, "id"),
    "dense-frame": ({"net_arch": [51, 51]}, "nothing"),
}
# For SAC on a Pendulum, with about 10,000 parameters in each network. Those of `uniform` would be
# as many if its experts didn't see the history.
_WIDE = {"placement": "big", "net_arch": [32, 32]}
PENDULUM_NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "predict-8": ({**_WIDE, "router": "predict", "num_experts": 8}, "history"),
    "dense-belief-8": (dense_belief(94, 8), "history"),
    "dense-history": (dense(78), "history"),
    "uniform": ({**_WIDE, "router": "uniform", "num_experts": 8}, "history"),
    "oracle": ({**_WIDE, "router": "task", "task_input": "router"}, "id"),
    "dense-frame": ({"net_arch": [98, 98]}, "nothing"),
}
# Networks that use another policy than this package's.
POLICIES = {
    "dense-predicting": "MultiInputPolicy",
    "lstm": "MultiInputLstmPolicy",
    "dense-frame": "MlpPolicy",
}
# The learning rates that the development runs chose.
RATES = {
    "long": {
        "predict-8": 0.01,
        "predict-16": 0.003,
        "dense-belief-8": 0.003,
        "oracle": 0.01,
        "dense-history-wide": 0.003,
        "dense-predicting": 0.01,
        "uniform": 0.003,
        "soft": 0.003,
        "dense-frame": 0.01,
        "predict-8-both": 0.003,
    },
    "interleaved": {
        "predict-8": 0.03,
        "predict-16": 0.03,
        "dense-belief-8": 0.01,
        "dense-history-wide": 0.01,
        "soft": 0.003,
        "uniform": 0.003,
        "oracle": 0.01,
        "dense-frame": 0.003,
    },
    "goals": {
        "predict-8": 0.01,
        "predict-8-hidden": 0.01,
        "dense-belief-8": 0.01,
        "oracle": 0.01,
        "dense-history-wide": 0.01,
        "uniform": 0.01,
        "dense-frame": 0.003,
    },
    "physics": dict.fromkeys(PENDULUM_NETWORKS, 0.001),
    "in_turn": {
        "predict-8": 0.01,
        "predict-16": 0.003,
        "predict-grow": 0.003,
        "dense-belief-8": 0.001,
        "dense-history-wide": 0.003,
        "uniform": 0.003,
        "oracle": 0.03,
        "dense-frame": 0.003,
    },
}
FIELDS = ["experiment", "network", "rate", "seed", "parameters", "steps_per_second"]
FIELDS += [
    "information",
    "told_apart",
    "new_tasks",
    "steps",
    *(f"task_{k}" for k in range(MOST_TASKS)),
]


def make(experiment: str, network: str, rate: float, seed: int, visit: int = 1) -> BaseAlgorithm:
    """Build a network and its environments; in turn, a visit of a task takes `visit` steps."""
    setting = SETTINGS[experiment]
    options, sees = (PENDULUM_NETWORKS if experiment == "physics" else NETWORKS)[network]
    if has_belief(options):
        own = {"predicts": setting.predicts, **options.get("features_extractor_kwargs", {})}
        options = {**options, "features_extractor_kwargs": own}
    in_turn = Cycle(steps_per_task=visit, num_cycles=2)
    length = {"history": 8, "last step": 1}.get(sees)
    env = sb3_moe.make_multitask_vec_env(
        setting.suite,
        n_envs=8 if experiment == "physics" else 64,
        seed=seed,
        schedule=in_turn if experiment == "in_turn" else None,
        task_id="dict" if sees == "id" else "info",
        history=length,
    )
    policy = POLICIES.get(network, "MoeMultiInputPolicy")
    shared: dict[str, Any] = {"policy_kwargs": options, "learning_rate": rate}
    shared |= {"seed": seed, "device": "cpu"}
    if experiment == "physics":  # half as many updates as transitions
        return SAC(policy, env, learning_starts=1000, gradient_steps=4, **shared)
    if network == "lstm":
        return RecurrentPPO(policy, env, **{**PPO_SETTINGS, "n_steps": 128}, **shared)
    return PPO(policy, env, **PPO_SETTINGS, **shared)


def has_belief(options: dict[str, Any]) -> bool:
    """Say whether a network infers the task by models of the environment."""
    extractor = options.get("features_extractor_class")
    return options.get("router") == "predict" or extractor is BeliefExtractor


def run(
    experiment: str, network: str, rate: float, seed: int, steps: int, parts: int
) -> list[dict[str, Any]]:
    """Train one network, and return a row for each evaluation: one after each part's steps."""
    model = make(experiment, network, rate, seed, steps)
    played_env = make_pinned_env(model.get_env(), copies=EPISODES)
    grows = network == "predict-grow"
    callback = NewTaskCallback(add_expert=True, most=14) if grows else None
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
    if getattr(model.policy, "belief", None) is not None:
        row["information"], row["told_apart"] = said_of_tasks(
            model, played_env, SETTINGS[experiment].num_tasks
        )
    if callback is not None:
        row["new_tasks"] = callback.noticed
    return [row | each for each in rows]


@th.no_grad()
def said_of_tasks(model: BaseAlgorithm, env: VecEnv, num_tasks: int) -> tuple[float, int]:
    """Return how much the belief tells of the task, and how many tasks have a model of their own.

    The first is the mutual information of model and task, as a share of its maximum. A task has a
    model of its own if its likeliest model is no other task's.
    """
    joint_KE = np.zeros((num_tasks, model.policy.belief.num_models))
    obs = env.reset()
    for _ in range(64):
        obs, _, _, infos = env.step(model.predict(obs)[0])
        belief_BE = model.policy.belief(th.as_tensor(obs["history"])).numpy()
        tasks_B = np.array([info["task_id"] for info in infos])
        whole = obs["history"][:, 0, -1] > 0
        np.add.at(joint_KE, tasks_B[whole], belief_BE[whole])
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
