"""MoE policy for CrossQ, with its BatchRenorm around the experts."""

from __future__ import annotations

from typing import Any, ClassVar

from sb3_contrib.crossq.policies import CrossQCritic, CrossQPolicy

from sb3_moe.policies.off_policy import MoEActorWithCritics, TowerCritic


class MoECrossQCritic(TowerCritic, CrossQCritic):
    """CrossQ's critic, with towers."""


class MoeMlpPolicy(MoEActorWithCritics, CrossQPolicy):  # type: ignore[misc]  # alike, not related
    """MoE policy for flat observations (CrossQ)."""

    adam_kwargs: ClassVar[dict[str, Any]] = {"betas": (0.5, 0.999)}
    critic_class: ClassVar[type[Any]] = MoECrossQCritic


__all__ = ["MoeMlpPolicy"]
