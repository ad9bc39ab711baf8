"""Which expert matters to which task: returns on conflicting CartPoles with each expert off.

Trains the network `top1-big` of interleaved.yaml, with its arguments and seed 0, and prints the
table of examples/conflict/importance.md.

    python examples/conflict/interventions.py
"""

import argparse

from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.watching import expert_importance

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=245_760, help="environment steps")
parser.add_argument("--episodes", type=int, default=20, help="of each task, for each row")
args = parser.parse_args()

env = sb3_moe.make_multitask_vec_env("Conflict/CartPole8", n_envs=64, seed=0)
network = {"placement": "big", "router": "top_k", "num_experts": 8, "net_arch": [8, 8]}
model = PPO(
    "MoeMultiInputPolicy",
    env,
    n_steps=32,
    batch_size=512,
    n_epochs=4,
    learning_rate=0.01,
    policy_kwargs=network,
    seed=0,
    device="cpu",
)
model.learn(args.steps)
print(expert_importance(model, episodes=args.episodes).to_markdown())
