"""MoE policies for SAC."""

from __future__ import annotations

from typing import ClassVar

from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
)
from stable_baselines3.sac.policies import CnnPolicy, MultiInputPolicy, SACPolicy

from sb3_moe.policies.off_policy import MoEActorWithCritics


class MoeMlpPolicy(MoEActorWithCritics, SACPolicy):
    """MoE policy for flat observations (SAC)."""


class MoeCnnPolicy(MoEActorWithCritics, CnnPolicy):
    """MoE policy for images (SAC)."""

    dense_extractor: ClassVar[type[BaseFeaturesExtractor]] = NatureCNN
    encodes_images: ClassVar[bool] = True


class MoeMultiInputPolicy(MoEActorWithCritics, MultiInputPolicy):
    """MoE policy for Dict observations (SAC)."""

    dense_extractor: ClassVar[type[BaseFeaturesExtractor]] = CombinedExtractor
    encodes_images: ClassVar[bool] = True


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
