"""Which of eight likely tasks of Meta-World does dense SAC learn soonest? One seed, each alone.

    python examples/metaworld/soonest.py runs/metaworld/soonest [TASK ...]
    python examples/metaworld/soonest.py runs/metaworld/soonest --table

The first command trains on the tasks that have no scores yet, about four minutes each on one core;
both print the tasks ranked, as protocol.md says.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv

import sb3_moe
from sb3_moe.callbacks import MultiTaskEvalCallback
from sb3_moe.saving.files import read_json, write_json
from sb3_moe.vec_env.evaluating import Successes

TASKS = (
    "reach", "drawer-close", "door-close", "coffee-button", "plate-slide", "faucet-close",
    "handle-press-side", "window-close",
)  # fmt: skip
SEED, STEPS, EVERY, EPISODES = 100, 30_000, 5_000, 10
# As in examples/studies/metaworld_mt3.yaml, where each task has a third of a batch of 384.
NETWORK = {"placement": "none", "net_arch": [128, 128], "optimizer_kwargs": {"fused": True}}
ARGUMENTS = {"buffer_size": STEPS, "batch_size": 128, "learning_starts": 1_667}
MOST_BY_CHANCE = 0.2


def train(task: str, folder: Path) -> None:
    """Train on a task, and write its evaluations and the random policy's success to a folder."""
    env = sb3_moe.make_multitask_vec_env(f"MetaWorld/MT1-{task}", n_envs=1, seed=SEED)
    random = random_success(env, 2 * EPISODES)
    model = SAC(
        "MoeMultiInputPolicy", env, policy_kwargs=NETWORK, seed=SEED, device="cpu", **ARGUMENTS
    )
    model.learn(STEPS, callback=MultiTaskEvalCallback(EVERY, EPISODES, log_path=folder))
    write_json(folder / "random.json", {"success": random, "episodes": 2 * EPISODES})
    env.close()


def random_success(env: VecEnv, episodes: int) -> float:
    """Return the share of episodes with uniformly random actions that succeed."""
    env.action_space.seed(SEED)
    env.reset()
    running, ended = Successes(env.num_envs), list[float]()
    while len(ended) < episodes:
        _, _, dones, infos = env.step(np.array([env.action_space.sample()]))
        running.step(infos)
        ended += [running.end(int(i)) for i in np.flatnonzero(dones)]
    return float(np.mean(ended))


def table(out: Path) -> Iterator[str]:
    """Rank the tasks by success averaged over training, those that random actions solve last."""
    rows = []
    for folder in (out / task for task in TASKS if (out / task / "random.json").exists()):
        with np.load(folder / "scores.npz") as scores:
            success = scores["successes"][1:, 0].mean(-1)
        rows.append((folder.name, success, read_json(folder / "random.json")["success"]))
    rows.sort(key=lambda row: (row[2] > MOST_BY_CHANCE, -row[1].mean()))
    steps = " | ".join(f"{EVERY * (k + 1):,}" for k in range(STEPS // EVERY))
    yield f"| task | by chance | {steps} | mean |"
    yield "|---" * (STEPS // EVERY + 3) + "|"
    for name, success, random in rows:
        shares = " | ".join(f"{value:.1f}" for value in success)
        yield f"| {name} | {random:.2f} | {shares} | {success.mean():.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="TASK")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    th.set_num_threads(1)
    for task in () if options.table else options.tasks:
        if not (options.out / task / "random.json").exists():
            train(task, options.out / task)
    print("\n".join(table(options.out)))


if __name__ == "__main__":
    main()
