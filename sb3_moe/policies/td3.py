"""MoE policies for TD3 and DDPG."""

from typing import Any

from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.td3.policies import Actor, CnnPolicy, MultiInputPolicy, TD3Policy
from torch import Tensor

from sb3_moe.policies.parts import MoEActorWithCritics, MoEPart


class MoEActor(MoEPart, Actor):
    """TD3's actor, one network that ends in a tanh, with experts."""

    layers = "mu"

    def forward(self, obs: PyTorchObs, *args: Any) -> Tensor:
        """Return actions, 0 in dimensions that the task lacks."""
        actions = super().forward(obs, *args)
        return actions if self.task_dims is None else self.task_dims.keep(actions, obs)


class MoETD3(MoEActorWithCritics):
    """Give TD3's actor and critics experts."""

    actor_class = MoEActor


class MoeMlpPolicy(MoETD3, TD3Policy):
    """MoE policy for flat observations (TD3, DDPG)."""


class MoeCnnPolicy(MoETD3, CnnPolicy):
    """MoE policy for images (TD3, DDPG)."""


class MoeMultiInputPolicy(MoETD3, MultiInputPolicy):
    """MoE policy for Dict observations (TD3, DDPG)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
