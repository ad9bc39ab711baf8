"""Who visits: sb3-contrib's algorithms, four placements, and small models of the two."""

from __future__ import annotations

from typing import Any

import arena
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from tables import ROUTERS
from torch import nn

ON_POLICY = ("TRPO", "MaskablePPO", "RecurrentPPO")
WITH_ACTOR = ("TQC", "CrossQ")
OFF_POLICY = ("QRDQN", *WITH_ACTOR)
EVERY = (*ON_POLICY, *OFF_POLICY)
WITH_PICTURES = tuple(name for name in EVERY if name != "CrossQ")
WITH_GSDE = ("TRPO", "RecurrentPPO", *WITH_ACTOR)
PICTURE = spaces.Box(0, 255, (36, 40, 2), np.uint8)
SB3_PICTURE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
TWO_AXES = spaces.Box(-1, 1, (2, 2), np.float32)


class OwnExtractor(BaseFeaturesExtractor):
    """Normalises a vector over the batch, and leaves half of it out.

    :param observation_space: of a vector
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        dim = int(np.prod(observation_space.shape))
        super().__init__(observation_space, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.layers = nn.Sequential(nn.Flatten(), self.norm, nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return the features, (B, dim)."""
        features: th.Tensor = self.layers(observations)
        return features


def alias_of(algorithm: str, kind: str = "Mlp") -> str:
    """Return the name of an algorithm's policy for a kind of observations."""
    return f"Moe{kind}{'Lstm' if algorithm == 'RecurrentPPO' else ''}Policy"


def make(algorithm: str, placement: str, kind: str = "Mlp", env: Any = None, **kwargs: Any) -> Any:
    """Return a small model of a placement, as ``arena.make``.

    :param kind: of observations: ``"Mlp"``, ``"Cnn"``, ``"MultiInput"``
    """
    kwargs = {"net_arch": [8], **ROUTERS.get(placement, {}), **kwargs}
    if algorithm == "RecurrentPPO":
        kwargs.setdefault("lstm_hidden_size", 8)
    return arena.make(algorithm, alias_of(algorithm, kind), env, placement=placement, **kwargs)


def env_of(algorithm: str, space: spaces.Space[Any]) -> arena.Arena:
    """Return an environment that shows a space and takes the algorithm's actions."""
    return arena.Arena(space, arena.actions_of(algorithm))


def with_gsde(algorithm: str, placement: str, **kwargs: Any) -> Any:
    """Return a model with gSDE."""
    settings: dict[str, Any] = {"use_sde": True, "sde_sample_freq": 4}
    if algorithm == "TRPO":
        settings["sub_sampling_factor"] = 4
    if algorithm == "RecurrentPPO":
        settings["clip_range_vf"] = 0.1
    env = arena.Arena(arena.FLAT, arena.BOX)
    return make(algorithm, placement, env=env, model=settings, **kwargs)
