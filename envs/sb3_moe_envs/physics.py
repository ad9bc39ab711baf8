"""Gymnasium's environments with other physics or other goals, so that tasks share spaces.

Where the physics differ, transitions tell which task is played; where goals do, rewards alone.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv

from sb3_moe_envs.checks import finite, positive, require_extra

# What the equations divide by: at 0, observations would be NaN.
_DIVISORS = ("length", "l", "m")


class GoalCartPole(CartPoleEnv):
    """A CartPole to be balanced at a place: the reward is 1 there, and half of it 0.5 m away.

    :param goal: the place, in [-2.4, 2.4]
    :param render_mode: as of CartPole
    """

    def __init__(self, goal: float, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.goal = finite("goal", goal)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Push the cart."""
        obs, _, *ends, info = super().step(action)  # type: ignore[no-untyped-call]  # Gymnasium's
        return obs, 1 / (1 + ((float(obs[0]) - self.goal) / 0.5) ** 2), *ends, info


class GoalPendulum(PendulumEnv):
    """A Pendulum to be held at an angle.

    :param goal: the angle, counted from upright
    :param render_mode: as of Pendulum
    """

    def __init__(self, goal: float, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.goal = finite("goal", goal)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Turn the pendulum."""
        angles = self.state[0] - np.array([0, self.goal])
        from_upright, from_goal = (angles + np.pi) % (2 * np.pi) - np.pi
        obs, reward, *ends, info = super().step(action)  # type: ignore[no-untyped-call]  # Gymnasium's
        return obs, float(reward + from_upright**2 - from_goal**2), *ends, info


def cartpole(
    render_mode: str | None = None, goal: float | None = None, **physics: float
) -> gym.Env[Any, Any]:
    """Build a CartPole with other physics, or a goal.

    :param goal: where it is to be balanced; None: anywhere
    :param physics: `gravity`, `masscart`, `masspole`, `length` (half the pole's) or `force_mag`
    :raises ValueError: if there is no such quantity, or one divided by isn't positive, of which
        the sum of the two masses is one
    """
    env: Any = CartPoleEnv(render_mode=render_mode)
    if goal is not None:
        env = GoalCartPole(goal, render_mode)
    _change(env, physics, ("gravity", "masscart", "masspole", "length", "force_mag"))
    # CartPoleEnv derives these two once, from the values it starts with.
    env.total_mass = positive("masscart + masspole", env.masspole + env.masscart)
    env.polemass_length = env.masspole * env.length
    return env


def pendulum(
    render_mode: str | None = None, goal: float | None = None, **physics: float
) -> gym.Env[Any, Any]:
    """Build a Pendulum with other physics, or another goal.

    :param goal: at which angle it is to be held, counted from upright; None: upright
    :param physics: `g` (gravity), `m` (mass) or `l` (length)
    :raises ValueError: if there is no such quantity, or one divided by isn't positive
    """
    env: Any = PendulumEnv(render_mode=render_mode)
    if goal is not None:
        env = GoalPendulum(goal, render_mode)
    _change(env, physics, ("g", "m", "l"))
    return env


def mujoco(env_id: str, gravity: float = 1.0, **kwargs: Any) -> gym.Env[Any, Any]:
    """Build a MuJoCo environment with another gravity.

    :param env_id: a Gymnasium id, such as `"Hopper-v5"`
    :param gravity: in multiples of the usual one
    :raises ValueError: if gravity isn't positive
    """
    gravity = positive("gravity", gravity)
    require_extra("a MuJoCo environment", "mujoco")
    env: Any = gym.make(env_id, disable_env_checker=True, **kwargs).unwrapped
    env.model.opt.gravity[:] *= gravity
    return env


def _change(env: Any, physics: dict[str, float], allowed: tuple[str, ...]) -> None:
    if env.render_mode is not None:
        # Gymnasium itself says so only at the first image.
        require_extra("an image of classic control", "pygame")
    for name, value in physics.items():
        if name not in allowed:
            raise ValueError(f"the physics must be among {list(allowed)}, got {name!r}")
        number = positive if name in _DIVISORS else finite
        setattr(env, name, number(name, value))
