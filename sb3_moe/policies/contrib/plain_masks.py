"""MaskablePPO's action distributions without a check of their arguments at every call.

Shapes: B batch, A actions.
"""

from __future__ import annotations

from typing import Any

import torch as th
from sb3_contrib.common.maskable.distributions import (
    MaskableBernoulliDistribution,
    MaskableCategorical,
    MaskableCategoricalDistribution,
    MaskableMultiCategoricalDistribution,
)

from sb3_moe.policies.plain_distributions import LooksOnce


class PlainMaskableCategoricalDistribution(LooksOnce, MaskableCategoricalDistribution):
    """For Discrete actions."""

    def proba_distribution(self, action_logits: th.Tensor) -> PlainMaskableCategoricalDistribution:
        """Set the logits, (B, A)."""
        self.given_BA = action_logits
        logits = action_logits.view(-1, self.action_dim)
        self.distribution = MaskableCategorical(logits=logits, validate_args=False)
        return self


class PlainMaskableMultiCategoricalDistribution(LooksOnce, MaskableMultiCategoricalDistribution):
    """For MultiDiscrete and MultiBinary actions."""

    def proba_distribution(
        self, action_logits: th.Tensor
    ) -> PlainMaskableMultiCategoricalDistribution:
        """Set the logits of all components side by side, (B, A)."""
        self.given_BA = action_logits
        parts = action_logits.view(-1, sum(self.action_dims)).split(list(self.action_dims), dim=1)
        self.distributions = [
            MaskableCategorical(logits=part, validate_args=False) for part in parts
        ]
        return self


MASKABLE: dict[type[Any], type[Any]] = {
    MaskableCategoricalDistribution: PlainMaskableCategoricalDistribution,
    MaskableMultiCategoricalDistribution: PlainMaskableMultiCategoricalDistribution,
    # Each component is one of two.
    MaskableBernoulliDistribution: PlainMaskableMultiCategoricalDistribution,
}
