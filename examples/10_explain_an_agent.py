"""Train one agent on three MinAtar games in turn, then explain it from what the callbacks wrote.

It prints which expert serves which game, what was learned and forgotten, and how many units are
dormant. About three minutes at the default budget.

    python examples/10_explain_an_agent.py
"""

import argparse

import numpy as np
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe import measures, presets
from sb3_moe.callbacks import MultiTaskEvalCallback, PlasticityCallback, RoutingCallback
from sb3_moe.watching import figures
from sb3_moe_envs import Cycle

RANDOM = measures.random_returns("MinAtar/CRL3")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--n-envs", type=int, default=64, help="copies of the game")
parser.add_argument("--rollouts", type=int, default=24, help="rollouts per block")
parser.add_argument("--cycles", type=int, default=2, help="how often each game comes")
parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes per game")
parser.add_argument("--out", default="runs/explained", help="folder for measurements and pictures")
args = parser.parse_args()

rollout = args.n_envs * presets.MINATAR_PPO["n_steps"]
schedule = Cycle(steps_per_task=args.rollouts * rollout, num_cycles=args.cycles)
env = sb3_moe.make_multitask_vec_env("MinAtar/CRL3", args.n_envs, seed=0, schedule=schedule)
hyperparameters = presets.with_policy(presets.MINATAR_PPO, placement="middle", num_experts=4)
model = PPO("MoeMultiInputPolicy", env, seed=0, device="cpu", **hyperparameters)

every = max(1, args.rollouts // 4) * rollout
watch = [
    MultiTaskEvalCallback(every, args.episodes, deterministic=False, log_path=args.out),
    PlasticityCallback(every, log_path=args.out),
    RoutingCallback(every, log_path=args.out),
]
model.learn(schedule.total_steps(num_tasks=3), callback=watch)

scores = measures.load_scores(args.out)
forgotten = measures.forgetting_per_task(scores.score, scores.steps, scores.blocks)
print(f"{'game':<14} {'random':>7} {'best':>7} {'at the end':>11} {'forgotten':>10}")
for k, game in enumerate(scores.task_names):
    best, last = scores.score[:, k].max(), scores.score[-1, k]
    print(f"{game:<14} {RANDOM[game]:7.1f} {best:7.1f} {last:11.1f} {forgotten[k]:10.1f}")

seen = figures.load_diagnostics(args.out)
for mixture in ("pi.middle", "vf.middle"):
    gates = seen[f"gates/{mixture}"][-1]
    served = ", ".join(
        f"{game} by {int(np.argmax(row))} ({row.max():.0%})"
        for game, row in zip(scores.task_names, gates, strict=True)
    )
    print(f"\n{mixture}: most of {served}")
    print(f"  specialization {seen[f'specialization/{mixture}'][-1]:.2f} of 1,", end=" ")
    print(f"agreement between experts {seen[f'agreement/{mixture}'][-1]:.2f}")

print("\nasleep at the beginning and at the end (with scores of at most 0.025):")
for layer in ("pi.0", "pi.1", "vf.0", "vf.1"):
    first, last = seen[f"dormant/{layer}"][[0, -1]]
    print(f"  {layer}: {first:.0%}, then {last:.0%} of the units")

print("\npictures:", *figures.save_figures(args.out, random=RANDOM), sep="\n  ")
