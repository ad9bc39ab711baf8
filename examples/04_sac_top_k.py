"""SAC on Pendulum with a top-k router in actor and critics, and a loss that balances the experts.

Each state goes to one of four experts. The balance loss reaches SAC's optimizers by itself: SAC
knows nothing of it. About two minutes; the second line shows what the loss is for:

    python examples/04_sac_top_k.py
    python examples/04_sac_top_k.py --balance-coef 0
"""

import argparse

import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_moe

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=10_000, help="environment steps")
parser.add_argument("--placement", default="middle", help="where the experts sit")
parser.add_argument("--balance-coef", type=float, default=0.01, help="weight of the balance loss")
parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

model = SAC(
    "MoeMlpPolicy",
    "Pendulum-v1",
    learning_rate=1e-3,
    policy_kwargs={
        "placement": args.placement,
        "router": "top_k",
        "num_experts": 4,
        "top_k": 1,
        "balance_coef": args.balance_coef,
        "net_arch": [64, 64],
    },
    seed=args.seed,
    device="cpu",
)
sb3_moe.describe(model)
model.learn(args.steps)

mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=args.episodes)
print(f"return over {args.episodes} episodes: {mean:.0f} +- {std:.0f}")

# How evenly the experts share the states that the replay buffer holds.
states = model.replay_buffer.sample(min(1_000, args.steps)).observations
for name, routing in sb3_moe.routing(model, states).items():
    print(f"{name}: share of each expert {np.round(routing.load_E.tolist(), 2)}")
