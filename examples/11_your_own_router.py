"""A router of your own: trained by PPO and DQN, loaded in a new process, drawn, and in a study.

python examples/11_your_own_router.py
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
from stable_baselines3 import DQN, PPO
from torch import nn

import sb3_moe
from sb3_moe import plots
from sb3_moe.callbacks import RoutingCallback
from sb3_moe.layers import MoELayer


class Tempered(MoELayer):
    """Weigh all experts by the softmax of scores, at a temperature of one's choice."""

    meaning = "a router at a temperature weighs all of them"
    learns = True

    def __init__(self, experts, sees, *, temperature=1.0):
        super().__init__(experts)
        self.scores = nn.Linear(sees.features, sees.num_experts)
        self.temperature = temperature

    def route(self, x, router_x):
        """Give every expert a gate; ``combine`` does the rest."""
        return self.combine(x, (self.scores(router_x) / self.temperature).softmax(-1))


NAME = f"{Path(__file__).stem}:Tempered"
STUDY = f"""{{name: own-router, games: [Breakout], regimes: [mtrl], seeds: 1,
architectures: {{soft-big: , mine: {{router: "{NAME}", placement: big}}}},
evaluation: {{points: 1, episodes: 1}}, steps_per_task: """
LOAD = "print(sb3.{0}.load({1!r}).policy.moe['{2}'].router, 'is in', {1!r})"
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=65_536, help="steps of each run")
    parser.add_argument("--out", type=Path, default=Path("runs/own-router"), help="folder")
    args = parser.parse_args()
    new_process = {"check": True, "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}}
    for kind, tower in ((PPO, "pi"), (DQN, "qf")):
        options = {"router": NAME, "router_kwargs": {"temperature": 2.0}}
        model = kind("MoeMlpPolicy", gym.make("CartPole-v1"), policy_kwargs=options)
        model.learn(args.steps // 8, RoutingCallback(args.steps // 16, log_path=args.out / tower))
        model.save(path := str(args.out / kind.__name__))
        sb3_moe.describe(model)
        plots.draw_last_gates(args.out / tower).savefig(args.out / f"{tower}.png")
        code = "import sb3_moe, stable_baselines3 as sb3; " + LOAD.format(
            kind.__name__, path, tower
        )
        subprocess.run([sys.executable, "-c", code], **new_process)
    (args.out / "study.yaml").write_text(f"{STUDY}{args.steps}}}")
    study = ["study", "run", str(args.out / "study.yaml"), "--out", str(args.out / "study")]
    subprocess.run([sys.executable, "-m", "sb3_moe", *study], **new_process)
