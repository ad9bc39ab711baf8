"""DQN with Soft MoE on CartPole, against the dense network with the same hyperparameters.

The hyperparameters are RL Zoo's for DQN on CartPole, with a learning rate that falls to zero, since
DQN's last policy is otherwise a matter of luck. About a minute; the second line is the dense
network:

    python examples/03_dqn_soft_moe.py
    python examples/03_dqn_soft_moe.py --placement none
"""

import argparse

from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule

import sb3_moe

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=50_000, help="environment steps")
parser.add_argument("--placement", default="middle", help="where the experts sit")
parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

model = DQN(
    "MoeMlpPolicy",
    "CartPole-v1",
    learning_rate=LinearSchedule(2.3e-3, 0.0, 1.0),
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
        "net_arch": [64, 64],
    },
    seed=args.seed,
    device="cpu",
)
sb3_moe.describe(model)
model.learn(args.steps)

mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=args.episodes)
print(f"return over {args.episodes} episodes: {mean:.0f} +- {std:.0f}")
