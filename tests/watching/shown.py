"""A world that can be seen: each task draws its number of the step in a size of its own."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO

import sb3_moe

LENGTH = 7
NASTY = "</script><img src=x onerror=alert(1)>"


class Shown(gym.Env[Any, Any]):
    """Pays the action taken times the step, for seven steps.

    :param size: of its pictures, in pixels
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, size: int = 8, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.size, self.render_mode = size, render_mode
        self.count = 0

    def _observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self._observe(), 0.1 * float(action) * self.count, self.count >= LENGTH, False, {}

    def get_action_meanings(self) -> list[str]:
        return ["nothing", "little", NASTY]

    def render(self) -> Any:
        return np.full((self.size, self.size + 2, 3), 30 * self.count, np.uint8)


if "Shown-v0" not in gym.registry:
    gym.register("Shown-v0", entry_point=Shown)


def two_tasks(n_envs: int = 2, **kwargs: Any) -> Any:
    """Build both tasks; the second draws larger pictures."""
    tasks = [("Shown-v0", {"size": 8}), ("Shown-v0", {"size": 16})]
    return sb3_moe.make_multitask_vec_env(tasks, n_envs=n_envs, seed=0, **kwargs)


def agent(env: Any = None, policy: str = "MoeMultiInputPolicy", **kwargs: Any) -> PPO:
    """Build an agent that has learned nothing."""
    options = {"net_arch": [6], "num_experts": 3, **kwargs}
    sizes = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    env = two_tasks() if env is None else env
    return PPO(policy, env, seed=0, policy_kwargs=options, **sizes)
