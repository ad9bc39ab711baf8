"""A dense agent learns one MinAtar game, gets experts, and one more with each game that follows.

A dense network learns the first game, then becomes a mixture that at first acts just as it did. At
each new game the callback freezes the existing experts and adds one. In the end a small dense
network is fitted to the agent's actions in the first game: a mixture whose gates differ by sample
has no exact dense equivalent (with router="task" each task has one: sb3_moe.to_dense(model, 0)).
About three minutes at the default budget.

    python examples/13_grow.py
"""

import argparse

import numpy as np
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe import presets
from sb3_moe.callbacks import TaskSwitchCallback, evaluate_tasks, make_pinned_env
from sb3_moe.growing import distill
from sb3_moe_envs import Sequence

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--n-envs", type=int, default=64, help="copies of the game")
parser.add_argument("--rollouts", type=int, default=24, help="rollouts per game and stage")
parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes per game")
parser.add_argument("--fit", type=int, default=500, help="steps of fitting the dense network")
parser.add_argument("--observations", type=int, default=4_000, help="of all games, to fit it to")
args = parser.parse_args()

block = args.rollouts * args.n_envs * presets.MINATAR_PPO["n_steps"]
# The first game twice: for the dense network, and for the mixture that it becomes.
schedule = Sequence([(0, 2 * block), (1, block), (2, block)])
env = sb3_moe.make_multitask_vec_env("MinAtar/MTRL3", args.n_envs, seed=0, schedule=schedule)
watched = make_pinned_env(env, copies=4, seed=1)
games = env.get_attr("task_names")[0]


def show(name, model):
    """Print the mean return in every game."""
    returns = evaluate_tasks(model, watched, args.episodes, deterministic=False).returns
    print(f"{name:<24}" + " ".join(f"{score:>14.1f}" for score in returns.mean(axis=1)))


def observations(model, game):
    """Let an agent play, and return what it saw of one game."""
    obs, seen = watched.reset(), []
    for _ in range(args.observations // watched.num_envs + 1):
        mine = obs["task_id"] == game
        seen.append({key: values[mine] for key, values in obs.items()})
        obs, _, _, _ = watched.step(model.predict(obs)[0])
    return {key: np.concatenate([each[key] for each in seen]) for key in obs}


print(f"{'':<24}" + " ".join(f"{game:>14}" for game in games))
hyperparameters = presets.with_policy(presets.MINATAR_PPO, placement="none")
dense = PPO("MoeMultiInputPolicy", env, seed=0, device="cpu", **hyperparameters)
dense.learn(block)
show("dense", dense)

model = sb3_moe.upcycle(dense, placement="middle", num_experts=2, router="soft")
show("with two experts", model)
grow = TaskSwitchCallback(on_new_task="freeze_old")
for game in games:
    model.learn(block, callback=grow, reset_num_timesteps=False)
    number = model.policy.moe_layers()["pi.middle"].num_experts
    show(f"{number} experts, {game}", model)
print("experts that are frozen:", model.policy.frozen_experts)

small, remains = distill(model, observations(model, 0), steps=args.fit)
show(f"dense for {games[0]}", small)
print("what fitting leaves:", {name: round(share, 2) for name, share in remains.items()})
