"""MoE policies for TRPO."""

from typing import Any

from sb3_moe.policies import on_policy
from sb3_moe.policies.options import DEFAULTS, LOSS_OF


class NoAuxLosses:
    """Refuse ``popart``, frozen experts, and options that change gradients, as auxiliary losses do.

    TRPO differentiates the KL divergence through the same network, and would change that too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in (*LOSS_OF, "spectral_coef", "task_gradients"):
            value = kwargs.get(name)
            if any(value.values()) if isinstance(value, dict) else value:
                raise ValueError(
                    f"`{name}` must be {DEFAULTS[name]} for TRPO, whose KL gradient it would "
                    f"change, got {value}"
                )
        if kwargs.get("popart"):
            raise ValueError("`popart` must be False for TRPO, whose loss needs values as they are")
        super().__init__(*args, **kwargs)

    def check_frozen_experts(self, frozen: Any) -> Any:
        """Refuse any: TRPO moves the actor without an optimizer."""
        found = super().check_frozen_experts(frozen)  # type: ignore[misc]  # of the policy behind
        if found:
            raise ValueError(
                "`frozen_experts` must be None for TRPO, which moves the actor without an "
                f"optimizer, got {frozen}"
            )
        return found


class MoeMlpPolicy(NoAuxLosses, on_policy.MoeMlpPolicy):
    """MoE policy for flat observations (TRPO)."""


class MoeCnnPolicy(NoAuxLosses, on_policy.MoeCnnPolicy):
    """MoE policy for images (TRPO)."""


class MoeMultiInputPolicy(NoAuxLosses, on_policy.MoeMultiInputPolicy):
    """MoE policy for Dict observations (TRPO)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
