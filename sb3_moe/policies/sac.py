"""MoE policies for SAC."""

from __future__ import annotations

from typing import ClassVar

from stable_baselines3.sac.policies import Actor, CnnPolicy, MultiInputPolicy, SACPolicy

from sb3_moe.policies.parts import GaussianActor, MoEActorWithCritics, MoEPart


class MoEActor(GaussianActor, Actor):
    """SAC's actor, with experts."""


class MoESAC(MoEActorWithCritics):
    """Give SAC's actor and critics experts."""

    has_temperature: ClassVar[bool] = True
    actor_class: ClassVar[type[MoEPart]] = MoEActor


class MoeMlpPolicy(MoESAC, SACPolicy):
    """MoE policy for flat observations (SAC)."""


class MoeCnnPolicy(MoESAC, CnnPolicy):
    """MoE policy for images (SAC)."""


class MoeMultiInputPolicy(MoESAC, MultiInputPolicy):
    """MoE policy for Dict observations (SAC)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
