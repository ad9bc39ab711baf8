"""How a reference agent is trained on one task alone: dense, with hyperparameters known to work.

MinAtar takes the package's preset; classic control takes RL Zoo's values. Atari and MuJoCo have no
recipe: their usual budgets (millions of steps per task and seed) belong on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from sb3_moe import presets


@dataclass(frozen=True)
class Recipe:
    """A dense agent for one task.

    :param deterministic: whether it is evaluated with its most likely actions, which can keep a
        MinAtar agent in a loop
    """

    algorithm: type[BaseAlgorithm]
    steps: int
    n_envs: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    deterministic: bool = True

    @property
    def label(self) -> str:
        """Say what the agent is."""
        return f"dense {self.algorithm.__name__}, {self.steps:,} steps"


def _dense(**net: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"placement": "none", **net}}


MINATAR = Recipe(
    PPO, 1_048_576, 64, presets.with_policy(presets.MINATAR_PPO, placement="none"), False
)
CARTPOLE = Recipe(
    PPO,
    102_400,
    8,
    {
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": LinearSchedule(1e-3, 0.0, 1.0),
        "clip_range": LinearSchedule(0.2, 0.0, 1.0),
        **_dense(),
    },
)
ACROBOT = Recipe(
    DQN,
    100_000,
    1,
    {
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "target_update_interval": 250,
        "train_freq": 4,
        "gradient_steps": -1,
        "exploration_fraction": 0.12,
        "exploration_final_eps": 0.1,
        **_dense(net_arch=[256, 256]),
    },
)
MOUNTAIN_CAR = Recipe(
    DQN,
    120_000,
    1,
    {
        "learning_rate": 4e-3,
        "batch_size": 128,
        "buffer_size": 10_000,
        "learning_starts": 1_000,
        "gamma": 0.98,
        "target_update_interval": 600,
        "train_freq": 16,
        "gradient_steps": 8,
        "exploration_fraction": 0.2,
        "exploration_final_eps": 0.07,
        **_dense(net_arch=[256, 256]),
    },
)
PENDULUM = Recipe(SAC, 10_000, 1, {"learning_rate": 1e-3, **_dense()})

RECIPES: dict[str, Recipe | dict[str, Recipe]] = {
    "MinAtar/MTRL3": MINATAR,
    "MinAtar/CRL3": MINATAR,
    "MinAtar/All5": MINATAR,
    "Classic/CartPole4": CARTPOLE,
    "Classic/Mixed3": {"CartPole": CARTPOLE, "Acrobot": ACROBOT, "MountainCar": MOUNTAIN_CAR},
    "Classic/Pendulum4": PENDULUM,
}


def recipe_for(suite: str, task: str) -> Recipe:
    """Find the recipe for a task of a suite.

    :raises ValueError: if there is none
    """
    if suite not in RECIPES:
        raise ValueError(f"`suite` must be one of {', '.join(RECIPES)}, got {suite!r}")
    recipes = RECIPES[suite]
    return recipes[task] if isinstance(recipes, dict) else recipes
