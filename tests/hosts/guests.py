"""Who visits: SB3's algorithms, four placements, and small models of the two."""

from __future__ import annotations

from typing import Any

import arena
from stable_baselines3.common.envs import BitFlippingEnv
from tables import ROUTERS

ON_POLICY = ("A2C", "PPO")
WITH_ACTOR = ("SAC", "TD3", "DDPG")
OFF_POLICY = ("DQN", *WITH_ACTOR)
EVERY = (*ON_POLICY, *OFF_POLICY)


def bits(*, pictures: bool = False, discrete: bool = False, n: int = 4) -> BitFlippingEnv:
    """Return SB3's environment of goals."""
    return BitFlippingEnv(n_bits=n, continuous=not discrete, image_obs_space=pictures)


def make(
    algorithm: str, placement: str, alias: str = "MoeMlpPolicy", env: Any = None, **kwargs: Any
) -> Any:
    """Return a small model of a placement, as ``arena.make``."""
    kwargs = {"net_arch": [8], **ROUTERS.get(placement, {}), **kwargs}
    return arena.make(algorithm, alias, env, placement=placement, **kwargs)
