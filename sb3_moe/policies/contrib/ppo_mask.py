"""MoE policies for MaskablePPO."""

from sb3_contrib.common.maskable.distributions import (
    MaskableBernoulliDistribution,
    MaskableCategoricalDistribution,
    MaskableMultiCategoricalDistribution,
)
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)

from sb3_moe.policies.on_policy import MoEActorCritic
from sb3_moe.policies.plain_distributions import Plain


class PlainMaskableCategorical(Plain, MaskableCategoricalDistribution):
    """For Discrete actions."""


class PlainMaskableMultiCategorical(Plain, MaskableMultiCategoricalDistribution):
    """For MultiDiscrete actions."""


class PlainMaskableBernoulli(Plain, MaskableBernoulliDistribution):
    """For MultiBinary actions."""


class MoeMlpPolicy(MoEActorCritic, MaskableActorCriticPolicy):  # type: ignore[misc]  # alike
    """MoE policy for flat observations (MaskablePPO)."""


class MoeCnnPolicy(MoEActorCritic, MaskableActorCriticCnnPolicy):  # type: ignore[misc]
    """MoE policy for images (MaskablePPO)."""


class MoeMultiInputPolicy(MoEActorCritic, MaskableMultiInputActorCriticPolicy):  # type: ignore[misc]
    """MoE policy for Dict observations (MaskablePPO)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
