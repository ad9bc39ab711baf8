"""Quick start: put `Moe` in front of the policy's name.

Trains PPO on CartPole with four soft-routed experts in the last hidden layer, looks inside, saves
and loads. About half a minute.

    python examples/01_quick_start.py
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_moe  # registers the policy names

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=50_000, help="environment steps")
parser.add_argument("--save", default="runs/quick_start", help="where the model is saved")
args = parser.parse_args()

model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"num_experts": 4}, seed=0)
sb3_moe.describe(model)
model.learn(args.steps)

mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=10)
print(f"return over 10 episodes: {mean:.0f} +- {std:.0f}")

obs = model.get_env().reset()
for name, routing in sb3_moe.routing(model, obs).items():
    gates = " ".join(f"{gate:.2f}" for gate in routing.load_E.tolist())
    print(f"{name}: weight of each expert {gates}")

model.save(args.save)
action, _ = PPO.load(args.save).predict(obs, deterministic=True)
print(f"after loading: action {action[0]}")
