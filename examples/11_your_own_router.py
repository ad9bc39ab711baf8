"""A router of your own: trained by PPO and DQN, loaded in a new process, drawn, and in a study.

It needs the extras ``minatar`` and ``cli``, and takes about two minutes.

    python examples/11_your_own_router.py
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import torch as th
from stable_baselines3 import DQN, PPO
from torch import nn

from sb3_moe import describe
from sb3_moe.callbacks import RoutingCallback
from sb3_moe.layers import MoELayer
from sb3_moe.watching import figures


class Tempered(MoELayer):
    """Weigh all experts by the softmax of scores, at a temperature of your choice."""

    def __init__(self, experts, sees, *, temperature=1.0):
        super().__init__(experts)
        self.scores = nn.Linear(sees.features, sees.num_experts)
        self.temperature = temperature

    def route(self, x, router_x):
        """Give every expert a gate; ``combine`` does the rest."""
        return self.combine(x, (self.scores(router_x) / self.temperature).softmax(-1))


class Shared(MoELayer):
    """Let expert 0 always act, and add the best k others (DeepSeekMoE, arXiv 2401.06066, eq. 4)."""

    leaves_out = True  # experts that were not chosen don't run

    def __init__(self, experts, sees, *, top_k=1):
        super().__init__(experts)
        self.scores = nn.Linear(sees.features, sees.num_experts - 1)
        self.top_k = top_k

    def route(self, x, router_x):
        """Give expert 0 a gate of 1, and the chosen ones their probabilities."""
        probs = self.scores(router_x).softmax(-1)
        kept, chosen = probs.topk(self.top_k)
        others = th.zeros_like(probs).scatter(-1, chosen, kept)
        gates = th.cat([th.ones_like(probs[..., :1]), others], -1)
        numbers = th.cat([th.zeros_like(chosen[..., :1]), chosen + 1], -1)
        return self.combine(x, gates, experts=numbers)


NAME = f"{Path(__file__).stem}:Tempered"
STUDY = f"""{{name: own-router, games: [Breakout], regimes: [mtrl], seeds: 1,
architectures: {{soft-big: , mine: {{router: "{NAME}", router_kwargs: {{temperature: 2.0}}}},
  shared: {{router: "{Path(__file__).stem}:Shared", top_k: 2}}}},
evaluation: {{points: 1, episodes: 1}}, steps_per_task: """
LOAD = "import sb3_moe, stable_baselines3 as sb3; print(sb3.{0}.load({1!r}).policy.moe['{2}'])"
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = "of each run of the study; PPO and DQN take an eighth"
    parser.add_argument("--steps", type=int, default=65_536, help=steps)
    parser.add_argument("--out", type=Path, default=Path("runs/own-router"), help="folder")
    args = parser.parse_args()
    anew = {"check": True, "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}}
    for kind, network, path in ((PPO, "pi", args.out / "ppo"), (DQN, "qf", args.out / "dqn")):
        model = kind("MoeMlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"router": NAME})
        model.learn(args.steps // 8, RoutingCallback(args.steps // 16, log_path=path))
        model.save(path / "model")
        describe(model)
        figures.draw_last_gates(path).savefig(path / "gates.png")
        load = LOAD.format(kind.__name__, str(path / "model"), network)
        subprocess.run([sys.executable, "-c", load], **anew)
    Path(file := f"{args.out}/study.yaml").write_text(f"{STUDY}{args.steps}}}")
    study = [sys.executable, "-m", "sb3_moe", "study", "run", file, "--out", f"{args.out}/study"]
    subprocess.run(study, **anew)
