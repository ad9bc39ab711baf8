"""DQN with Soft MoE on CartPole, against the dense network with the same hyperparameters.

The hyperparameters are RL Zoo's for DQN on CartPole. DQN's last policy is a matter of luck, so the
best one of all evaluations is kept. About a minute; the second line trains the dense network:

    python examples/03_dqn_soft_moe.py
    python examples/03_dqn_soft_moe.py --placement none
"""

import argparse

from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_moe

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=50_000, help="environment steps")
parser.add_argument("--placement", default="middle", help="where the experts sit")
parser.add_argument("--episodes", type=int, default=20, help="episodes of the last evaluation")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="runs/dqn_soft_moe", help="folder for the best model")
args = parser.parse_args()

model = DQN(
    "MoeMlpPolicy",
    "CartPole-v1",
    learning_rate=2.3e-3,
    batch_size=64,
    buffer_size=100_000,
    learning_starts=1_000,
    target_update_interval=10,
    train_freq=256,
    gradient_steps=128,
    exploration_fraction=0.16,
    exploration_final_eps=0.04,
    policy_kwargs={
        "placement": args.placement,
        "router": "soft",
        "num_experts": 4,
        "expert_width": 64,
        "net_arch": [256, 256],
    },
    seed=args.seed,
    device="cpu",
)
sb3_moe.describe(model)

eval_env = make_vec_env("CartPole-v1", seed=args.seed + 1)
keep_best = EvalCallback(
    eval_env, eval_freq=min(args.steps, 2_000), best_model_save_path=args.out, verbose=0
)
model.learn(args.steps, callback=keep_best)

best = DQN.load(f"{args.out}/best_model", device="cpu")
mean, std = evaluate_policy(best, eval_env, n_eval_episodes=args.episodes)
print(f"return over {args.episodes} episodes: {mean:.0f} +- {std:.0f}")
