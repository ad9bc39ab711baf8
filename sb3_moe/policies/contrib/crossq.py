"""MoE policy for CrossQ, with its BatchRenorm around the experts."""

from __future__ import annotations

from typing import Any, ClassVar

from sb3_contrib.crossq.policies import Actor, CrossQCritic, CrossQPolicy

from sb3_moe.policies.off_policy import MoEActorWithCritics
from sb3_moe.policies.parts import GaussianActor, MoEPart, TowerCritic


class MoEActor(GaussianActor, Actor):
    """CrossQ's actor, with experts."""

    dense_class: ClassVar[type[Any]] = Actor


class MoECrossQCritic(TowerCritic, CrossQCritic):
    """CrossQ's critic, with towers."""

    dense_class: ClassVar[type[Any]] = CrossQCritic


class MoeMlpPolicy(MoEActorWithCritics, CrossQPolicy):  # type: ignore[misc]  # alike, not related
    """MoE policy for flat observations (CrossQ)."""

    adam_kwargs: ClassVar[dict[str, Any]] = {"betas": (0.5, 0.999)}
    has_temperature: ClassVar[bool] = True
    actor_class: ClassVar[type[MoEPart]] = MoEActor
    critic_class: ClassVar[type[MoEPart]] = MoECrossQCritic


__all__ = ["MoeMlpPolicy"]
