"""MoE policies for TQC."""

import torch as th
from sb3_contrib.tqc.policies import Actor, CnnPolicy, Critic, MultiInputPolicy, TQCPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_moe.policies.parts import GaussianActor, MoEActorWithCritics, MoECritic


class MoEActor(GaussianActor, Actor):
    """TQC's actor, with experts."""


class MoEQuantileCritic(MoECritic, Critic):
    """TQC's critic, with experts."""

    def forward(self, obs: PyTorchObs, action: Tensor) -> Tensor:  # type: ignore[override]
        """Return the quantiles of every network, (B, networks, quantiles)."""
        grad = not self.share_features_extractor
        return th.stack(self.networks_forward(obs, action, grad=grad), 1)


class MoETQC(MoEActorWithCritics):
    """SAC's networks with quantile critics."""

    actor_class = MoEActor
    critic_class = MoEQuantileCritic


class MoeMlpPolicy(MoETQC, TQCPolicy):
    """MoE policy for flat observations (TQC)."""


class MoeCnnPolicy(MoETQC, CnnPolicy):
    """MoE policy for images (TQC)."""


class MoeMultiInputPolicy(MoETQC, MultiInputPolicy):
    """MoE policy for Dict observations (TQC)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
