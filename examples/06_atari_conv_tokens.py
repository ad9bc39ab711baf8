"""Atari: every position of the feature map is a token (PerConv), with SB3's own Atari wrappers.

Nature's three convolutions give a map of 7x7 positions; the soft router mixes these 49 tokens into
slots and the experts work on slots. Slots are the main cost: two per expert instead of the default
of thirteen make a forward pass several times cheaper.

The default budget is a smoke test: Atari takes millions of steps, and a GPU.

    python examples/06_atari_conv_tokens.py --steps 10000000 --device cuda
"""

import argparse

import ale_py
import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

import sb3_moe

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=20_000, help="environment steps")
parser.add_argument("--game", default="BreakoutNoFrameskip-v4", help="Gymnasium id")
parser.add_argument("--n-envs", type=int, default=8, help="copies of the game")
parser.add_argument("--n-steps", type=int, default=128, help="steps per copy and rollout")
parser.add_argument("--device", default="auto", help="of torch")
args = parser.parse_args()

gym.register_envs(ale_py)
env = VecFrameStack(make_atari_env(args.game, n_envs=args.n_envs, seed=0), n_stack=4)
model = PPO(
    "MoeCnnPolicy",
    env,
    n_steps=args.n_steps,
    batch_size=args.n_steps * args.n_envs // 4,
    n_epochs=4,
    learning_rate=2.5e-4,
    clip_range=0.1,
    ent_coef=0.01,
    vf_coef=0.5,
    policy_kwargs={"router": "soft", "tokens": "conv", "num_experts": 4, "num_slots": 2},
    seed=0,
    device=args.device,
    verbose=1,
)
sb3_moe.describe(model)
model.learn(args.steps)

routing = sb3_moe.routing(model, env.reset())["pi.middle"]
_, num_tokens, num_experts = routing.gates_BNE.shape
print(f"{num_tokens} tokens of each frame, shared by {num_experts} experts: {routing.load_E}")
