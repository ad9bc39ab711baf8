"""Safe files beside SB3's zips: the time to save and to load a model, and the size.

``python -m benchmarks --only saving`` prints the table and writes it.
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

import sb3_moe
from benchmarks.timing import bounded, paired, ratio

ROUNDS = 9


class Planes(gym.Env[Any, Any]):
    """Shows noise of the size of MinAtar's observations."""

    observation_space = spaces.Box(0, 1, (10, 10, 7), np.uint8)
    action_space = spaces.Discrete(6)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Start an episode."""
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        """Return noise; an episode never ends."""
        return self.observation_space.sample(), 0.0, False, False, {}


def models() -> dict[str, BaseAlgorithm]:
    """Return a few models, which :func:`run` trains so that optimizers have something to save."""
    off_policy: dict[str, Any] = {"buffer_size": 1000, "learning_starts": 50}
    big = {"placement": "big", "router": "top_k"}
    return {
        "PPO, dense, CartPole": PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu"),
        "PPO, middle, CartPole": PPO("MoeMlpPolicy", "CartPole-v1", n_steps=64, device="cpu"),
        "SAC, big, Pendulum": SAC(
            "MoeMlpPolicy", "Pendulum-v1", policy_kwargs=big, device="cpu", **off_policy
        ),
        "DQN, middle, 10x10 planes": DQN("MoeCnnPolicy", Planes(), device="cpu", **off_policy),
    }


def run(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Save and load each model both ways, turn by turn.

    :param rounds: how often
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models().items():
            model.learn(64)
            rows += _rows(name, model, Path(folder), rounds)
    return rows


def _rows(name: str, model: BaseAlgorithm, folder: Path, rounds: int) -> list[dict[str, Any]]:
    safe, zipped = folder / "model.moe", folder / "model.zip"
    calls = {
        "save": (partial(sb3_moe.save, model, safe), partial(model.save, zipped)),
        "load": (
            partial(sb3_moe.load, safe, device="cpu"),
            partial(type(model).load, zipped, device="cpu"),
        ),
    }
    rows = []
    for what, (ours, theirs) in calls.items():
        seconds = paired({"moe": ours, "zip": theirs}, rounds=rounds, warmups=2)
        row = bounded(f"{name}: {what}, .moe / .zip, time", ratio(seconds["moe"], seconds["zip"]))
        for kind, each in seconds.items():
            row[f"{kind}_ms"] = 1000 * statistics.median(each)
        rows.append(row)
    for row in rows:
        row["moe_kB"], row["zip_kB"] = (path.stat().st_size / 1000 for path in (safe, zipped))
    return rows
