"""MoE policies for SAC."""

from stable_baselines3.sac.policies import Actor, CnnPolicy, MultiInputPolicy, SACPolicy

from sb3_moe.policies.parts import GaussianActor, MoEActorWithCritics


class MoEActor(GaussianActor, Actor):
    """SAC's actor, with experts."""


class MoESAC(MoEActorWithCritics):
    """Give SAC's actor and critics experts."""

    actor_class = MoEActor


class MoeMlpPolicy(MoESAC, SACPolicy):
    """MoE policy for flat observations (SAC)."""


class MoeCnnPolicy(MoESAC, CnnPolicy):
    """MoE policy for images (SAC)."""


class MoeMultiInputPolicy(MoESAC, MultiInputPolicy):
    """MoE policy for Dict observations (SAC)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
