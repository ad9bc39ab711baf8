"""Draw README's picture of which expert serves which task: `python docs/_ext/draw_routing.py`.

Four CartPoles conflict, and the router of four experts sees the task id and learns which expert
serves which task. It takes about two minutes.
"""

import sys
from pathlib import Path

import torch as th
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.callbacks import evaluate_tasks, make_pinned_env
from sb3_moe.watching.figures import draw_routing, save_figure

PATH = Path(__file__).parents[1] / "routing"
STEPS = 327_680


def trained(steps=STEPS, seed=0):
    """Train the agent."""
    th.set_num_threads(1)
    env = sb3_moe.make_multitask_vec_env("Conflict/CartPole4", n_envs=64, seed=seed)
    options = {
        "placement": "big",
        "router": "top_k",
        "num_experts": 4,
        "task_input": "router",
        "balance_coef": 0.01,
        "net_arch": [16, 16],
    }
    arguments = {"n_steps": 32, "batch_size": 512, "n_epochs": 4, "learning_rate": 0.01}
    model = PPO("MoeMultiInputPolicy", env, policy_kwargs=options, seed=seed, **arguments)
    return model.learn(steps)


def main():
    """Train, print the return of each task, and draw."""
    model = trained(seed=int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(evaluate_tasks(model, make_pinned_env(model.get_env(), seed=1)).returns.mean(1))
    save_figure(draw_routing(model), PATH, formats=["png"], dpi=110)


if __name__ == "__main__":
    main()
