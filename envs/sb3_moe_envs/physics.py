"""Gymnasium's environments with other physics, so that tasks share spaces but not dynamics."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv

from sb3_moe_envs.checks import finite, positive, require_extra

# What the equations divide by: at 0, observations would be NaN.
_DIVISORS = ("length", "l", "m")


def cartpole(render_mode: str | None = None, **physics: float) -> gym.Env[Any, Any]:
    """Build a CartPole with other physics.

    :param physics: `gravity`, `masscart`, `masspole`, `length` (half the pole's) or `force_mag`
    :raises ValueError: if there is no such quantity, or one divided by isn't positive, of which
        the sum of the two masses is one
    """
    env: Any = CartPoleEnv(render_mode=render_mode)
    _change(env, physics, ("gravity", "masscart", "masspole", "length", "force_mag"))
    # CartPoleEnv derives these two once, from the values it starts with.
    env.total_mass = positive("masscart + masspole", env.masspole + env.masscart)
    env.polemass_length = env.masspole * env.length
    return env


def pendulum(render_mode: str | None = None, **physics: float) -> gym.Env[Any, Any]:
    """Build a Pendulum with other physics.

    :param physics: `g` (gravity), `m` (mass) or `l` (length)
    :raises ValueError: if there is no such quantity, or one divided by isn't positive
    """
    env: Any = PendulumEnv(render_mode=render_mode)
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
