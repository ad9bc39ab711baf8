"""MaskablePPO from sb3-contrib: experts and invalid actions.

Of eighty actions sixty are forbidden at each step, and one of the rest is right. Masks work as
they do with the dense policy; a masked action is never taken. About a minute.

    python examples/05_maskable_ppo.py
"""

import argparse

from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from sb3_contrib.common.maskable.evaluation import evaluate_policy

import sb3_moe

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=20_000, help="environment steps")
parser.add_argument("--n-steps", type=int, default=1_024, help="steps of a rollout")
parser.add_argument("--placement", default="big", help="where the experts sit")
parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes")
args = parser.parse_args()

env = InvalidActionEnvDiscrete(dim=80, n_invalid_actions=60)
model = MaskablePPO(
    "MoeMlpPolicy",
    env,
    n_steps=args.n_steps,
    gamma=0.4,
    ent_coef=0.01,
    policy_kwargs={"placement": args.placement, "router": "top_k", "num_experts": 4},
    seed=0,
    device="cpu",
)
sb3_moe.describe(model)
model.learn(args.steps)

mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=args.episodes, warn=False)
print(f"return over {args.episodes} episodes: {mean:.0f} +- {std:.0f} of 100")
