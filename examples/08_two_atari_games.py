"""Two Atari games at once, in one batched environment on ale-py.

Both games show 84x84 gray frames and take all eighteen actions, so nothing has to be padded. The
default budget is a smoke test: Atari takes millions of steps.

    python examples/08_two_atari_games.py --steps 2000000 --device cuda
"""

import argparse

from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.callbacks import TaskRolloutCallback

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=20_000, help="environment steps, both games")
parser.add_argument("--n-envs", type=int, default=8, help="copies, half of them for each game")
parser.add_argument("--n-steps", type=int, default=128, help="steps per copy and rollout")
parser.add_argument("--device", default="auto", help="of torch")
args = parser.parse_args()

env = sb3_moe.make_multitask_vec_env("Atari/Two", n_envs=args.n_envs, seed=0)
print(env.get_attr("task_names")[0], env.observation_space)

model = PPO(
    "MoeMultiInputPolicy",
    env,
    n_steps=args.n_steps,
    batch_size=args.n_steps * args.n_envs // 4,
    n_epochs=4,
    learning_rate=2.5e-4,
    clip_range=0.1,
    ent_coef=0.01,
    # The experts read one token per position of Nature's 7x7 map; two slots each keep it cheap.
    policy_kwargs={"tokens": "conv", "num_experts": 4, "num_slots": 2, "net_arch": [256]},
    seed=0,
    device=args.device,
    verbose=1,
)
sb3_moe.describe(model)
model.learn(args.steps, callback=TaskRolloutCallback())
