"""Two tasks, one policy: the task id picks the expert.

CartPole and Acrobot have different observations and actions; they are padded to one space, played
side by side, and the hardcoded router gives each task an expert of its own. About two minutes.

    python examples/02_two_tasks.py
"""

import argparse

from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.callbacks import evaluate_tasks, make_pinned_env

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=200_000, help="environment steps, both tasks")
parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes per task")
args = parser.parse_args()

env = sb3_moe.make_multitask_vec_env(["CartPole-v1", "Acrobot-v1"], n_envs=8, seed=0)
print(env.observation_space)

model = PPO(
    "MoeMultiInputPolicy",
    env,
    n_steps=256,
    batch_size=256,
    learning_rate=1e-3,
    policy_kwargs={"placement": "big", "router": "task"},
    seed=0,
)
sb3_moe.describe(model)
model.learn(args.steps)

played = evaluate_tasks(model, make_pinned_env(env, copies=2, seed=1), args.episodes)
for name, returns in zip(env.get_attr("task_names")[0], played.returns, strict=True):
    print(f"{name}: return {returns.mean():.0f} over {len(returns)} episodes")

routing = sb3_moe.routing(model, env.reset())["pi.big"]
for task, gates in zip(env.env_method("get_task"), routing.gates_BNE[:, 0], strict=True):
    print(f"task {task} -> expert {int(gates.argmax())}")
