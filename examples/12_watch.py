"""Train one agent on two MinAtar games, then watch it: a page to play with, and a film.

The page shows every game with the gates beside it, and again with one expert switched off. With
`--gif docs/watch.gif` it makes the film of the README. About four minutes at the default budget.

    python examples/12_watch.py
"""

import argparse
from pathlib import Path

from stable_baselines3 import PPO

import sb3_moe
from sb3_moe import presets
from sb3_moe.watching import expert_importance
from sb3_moe_envs import SUITES

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=900_000, help="environment steps")
parser.add_argument("--n-envs", type=int, default=64, help="copies of the games")
parser.add_argument("--max-steps", type=int, default=500, help="steps of each game on the page")
parser.add_argument("--episodes", type=int, default=10, help="of each game, for the table")
parser.add_argument("--out", default="runs/watched", help="folder for the agent and its replay")
parser.add_argument("--gif", help="the film; by default replay.gif in the folder")
args = parser.parse_args()

games = SUITES["MinAtar/MTRL3"].tasks[:2]
env = sb3_moe.make_multitask_vec_env(games, n_envs=args.n_envs, seed=0)
hyperparameters = presets.with_policy(presets.MINATAR_PPO, placement="middle", num_experts=4)
model = PPO("MoeMultiInputPolicy", env, seed=0, device="cpu", **hyperparameters)
model.learn(args.steps)

out = Path(args.out)
out.mkdir(parents=True, exist_ok=True)
sb3_moe.save(model, out / "agent.moe")

plays = {"episodes": 5, "max_steps": args.max_steps, "deterministic": False, "seed": 1}
replay = sb3_moe.watch(model, without=["pi:1"], **plays)
replay.importance = expert_importance(model, episodes=args.episodes, deterministic=False)
print("page:", replay.save(out / "replay.html"))
film = replay.to_video(args.gif or out / "replay.gif", size=200, max_steps=120)
print("film:", film)
print(replay.importance.to_markdown())
