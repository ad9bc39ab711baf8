"""MoE policies for MaskablePPO."""

from __future__ import annotations

from typing import ClassVar

from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
)

from sb3_moe.policies.on_policy import MoEActorCritic


class MoeMlpPolicy(MoEActorCritic, MaskableActorCriticPolicy):  # type: ignore[misc]  # alike
    """MoE policy for flat observations (MaskablePPO)."""


class MoeCnnPolicy(MoEActorCritic, MaskableActorCriticCnnPolicy):  # type: ignore[misc]
    """MoE policy for images (MaskablePPO)."""

    dense_extractor: ClassVar[type[BaseFeaturesExtractor]] = NatureCNN
    encodes_images: ClassVar[bool] = True


class MoeMultiInputPolicy(MoEActorCritic, MaskableMultiInputActorCriticPolicy):  # type: ignore[misc]
    """MoE policy for Dict observations (MaskablePPO)."""

    dense_extractor: ClassVar[type[BaseFeaturesExtractor]] = CombinedExtractor
    encodes_images: ClassVar[bool] = True


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
