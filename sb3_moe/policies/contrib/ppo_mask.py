"""MoE policies for MaskablePPO."""

from __future__ import annotations

from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)

from sb3_moe.policies.contrib.plain_masks import MASKABLE
from sb3_moe.policies.on_policy import MoEActorCritic
from sb3_moe.policies.plain_distributions import PLAIN

PLAIN.update(MASKABLE)


class MoeMlpPolicy(MoEActorCritic, MaskableActorCriticPolicy):  # type: ignore[misc]  # alike
    """MoE policy for flat observations (MaskablePPO)."""


class MoeCnnPolicy(MoEActorCritic, MaskableActorCriticCnnPolicy):  # type: ignore[misc]
    """MoE policy for images (MaskablePPO)."""


class MoeMultiInputPolicy(MoEActorCritic, MaskableMultiInputActorCriticPolicy):  # type: ignore[misc]
    """MoE policy for Dict observations (MaskablePPO)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
