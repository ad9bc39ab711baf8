"""Five MinAtar games one after the other, all evaluated throughout.

The environment plays a game for a block of steps, then switches; the callback goes on evaluating
all five, which shows what is forgotten. About twelve minutes at the default budget.

    python examples/07_five_games_in_turn.py
"""

import argparse

import numpy as np
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe import presets
from sb3_moe.callbacks import MultiTaskEvalCallback
from sb3_moe_envs import Cycle

ROLLOUT = 64 * presets.MINATAR_PPO["n_steps"]

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--suite", default="MinAtar/All5", help="the games")
parser.add_argument("--rollouts", type=int, default=60, help="rollouts of 8,192 steps per game")
parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes per game")
parser.add_argument("--out", default="runs/five_games", help="folder for scores.npz")
args = parser.parse_args()

# Blocks of whole rollouts: a rollout across a switch would mix two games in one update.
schedule = Cycle(steps_per_task=args.rollouts * ROLLOUT)
env = sb3_moe.make_multitask_vec_env(args.suite, n_envs=64, seed=0, schedule=schedule)
hyperparameters = presets.with_policy(presets.MINATAR_PPO, placement="big")
model = PPO("MoeMultiInputPolicy", env, seed=0, device="cpu", **hyperparameters)
watch = MultiTaskEvalCallback(
    every=max(1, args.rollouts // 4) * ROLLOUT, n_eval_episodes=args.episodes, log_path=args.out
)
model.learn(schedule.total_steps(env.get_attr("num_tasks")[0]), callback=watch, progress_bar=True)

with np.load(f"{args.out}/scores.npz", allow_pickle=False) as run:
    print("steps      trained      " + " ".join(f"{name:>13}" for name in run["task_names"]))
    for step, task, scores in zip(run["steps"], run["trained"], run["score"], strict=True):
        row = " ".join(f"{score:13.1f}" for score in scores)
        print(f"{step:<10} {run['task_names'][task]:<12} {row}")
