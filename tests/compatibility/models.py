"""Small models of every algorithm of SB3 and sb3-contrib, at four placements."""

from typing import Any

import arena
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_moe.policies.registration import TABLE

PLACEMENTS = ("none", "middle", "final", "big")
# More than one router, so that what is kept beside the weights is asked too.
ROUTERS = {"final": {"router": "top_k", "top_k": 2}, "big": {"num_experts": 2}}
EVERY = tuple(TABLE)
ON_POLICY = arena.ON_POLICY
WITH_ACTOR = arena.BOX_ACTIONS
WITH_Q = ("DQN", "QRDQN")
OFF_POLICY = (*WITH_Q, *WITH_ACTOR)
WITH_IMAGES = tuple(name for name in EVERY if name != "CrossQ")
WITH_GSDE = ("A2C", "PPO", "TRPO", "RecurrentPPO", "SAC", "TQC", "CrossQ")
IMAGE = spaces.Box(0, 255, (36, 40, 2), np.uint8)


class Whitening(BaseFeaturesExtractor):
    """Batch norm and dropout over the flat observation: both act differently in training."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        dim = get_flattened_obs_dim(observation_space)
        super().__init__(observation_space, dim)
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(dim), nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return the features, (B, dim)."""
        features: th.Tensor = self.layers(observations)
        return features


def family_of(algorithm: str) -> str:
    """Return which kind of networks an algorithm has."""
    if algorithm in ON_POLICY:
        return "on-policy"
    return "Q network" if algorithm in WITH_Q else "actor and critics"


def bits(*, images: bool = False, discrete: bool = False, n: int = 4) -> BitFlippingEnv:
    """Return SB3's environment of goals."""
    return BitFlippingEnv(n_bits=n, continuous=not discrete, image_obs_space=images)


def env_of(algorithm: str, space: spaces.Space[Any] = arena.FLAT) -> arena.Arena:
    """Return an environment that shows a space and takes the algorithm's actions."""
    return arena.Arena(space, arena.actions_of(algorithm))


def alias_of(algorithm: str, kind: str = "Mlp") -> str:
    """Return the name of an algorithm's policy for a kind of observations."""
    return f"Moe{kind}{'Lstm' if algorithm == 'RecurrentPPO' else ''}Policy"


def make(algorithm: str, placement: Any, kind: str = "Mlp", env: Any = None, **kwargs: Any) -> Any:
    """Return a small model of a placement, as ``arena.make``.

    :param kind: of observations: ``"Mlp"``, ``"Cnn"``, ``"MultiInput"``
    """
    kwargs = {"net_arch": [8], **ROUTERS.get(str(placement), {}), **kwargs}
    if algorithm == "RecurrentPPO":
        kwargs.setdefault("lstm_hidden_size", 8)
    return arena.make(algorithm, alias_of(algorithm, kind), env, placement=placement, **kwargs)


def with_gsde(algorithm: str, placement: Any, env: Any = None, **kwargs: Any) -> Any:
    """Return a model with state-dependent exploration."""
    settings = {"use_sde": True, "sde_sample_freq": 4}
    env = env or arena.Arena(arena.FLAT, arena.BOX)
    return make(algorithm, placement, env=env, model=settings, **kwargs)


def losses(model: Any) -> dict[str, float]:
    """Return the losses that were logged last."""
    return {key: v for key, v in model.logger.name_to_value.items() if "loss" in key}


def assert_learns(model: Any, steps: int = 32) -> Any:
    """Train a little: losses are finite, and weights change unless TRPO's line search fails."""
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    arena.train(model, steps)
    assert losses(model)
    assert np.isfinite(list(losses(model).values())).all(), losses(model)
    moved = any(not th.equal(v, before[name]) for name, v in model.policy.state_dict().items())
    assert moved or model.logger.name_to_value.get("train/is_line_search_success") == 0
    return model
