"""SAC on four Pendulums of different gravity, with a replay buffer that knows its tasks.

The buffer draws every task equally often, and normalizes rewards by the task they came from.

SAC learns one entropy temperature for all tasks: it is right for their average, so a task whose
rewards are larger explores less than it should, and one whose rewards are smaller explores more.
Normalizing rewards per task brings the tasks to one scale, for which one temperature is right.

    python examples/09_sac_changed_gravity.py
"""

import argparse

from stable_baselines3 import SAC

import sb3_moe
from sb3_moe.callbacks import evaluate_tasks, make_pinned_env
from sb3_moe.vec_env import MultiTaskReplayBuffer, PerTaskVecNormalize

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=20_000, help="environment steps, all tasks")
parser.add_argument("--episodes", type=int, default=5, help="evaluation episodes per task")
args = parser.parse_args()

env = PerTaskVecNormalize(
    sb3_moe.make_multitask_vec_env("Classic/Pendulum4", n_envs=4, seed=0), norm_obs=False
)
model = SAC(
    "MoeMultiInputPolicy",
    env,
    learning_rate=1e-3,
    learning_starts=400,
    train_freq=1,
    gradient_steps=2,
    replay_buffer_class=MultiTaskReplayBuffer,
    policy_kwargs={"net_arch": [64, 64], "num_experts": 4, "task_input": "both"},
    seed=0,
    device="cpu",
)
sb3_moe.describe(model)
model.learn(args.steps)

played = evaluate_tasks(model, make_pinned_env(env, copies=1, seed=1), args.episodes)
for name, returns in zip(env.get_attr("task_names")[0], played.returns, strict=True):
    print(f"{name}: return {returns.mean():.0f} over {len(returns)} episodes")
