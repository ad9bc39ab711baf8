"""What MoE policies with an actor and critics of Box actions share (SAC, TD3, TQC, CrossQ)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy

from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.parts import MoEContinuousCritic, MoEPart, make_part

if TYPE_CHECKING:

    class _Policy(MoEPolicy, SACPolicy):
        """What stands behind the mixin: SAC's policy, or one with the same methods."""

else:
    _Policy = MoEPolicy


class MoEActorWithCritics(_Policy):
    """Give the actor, and each critic, experts."""

    towers: ClassVar[tuple[str, ...]] = ("pi", "qf")
    on_policy: ClassVar[bool] = False
    actor_class: ClassVar[type[MoEPart]]
    critic_class: ClassVar[type[MoEPart]] = MoEContinuousCritic

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Build the actor, with experts where they are wanted."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return make_part(self, "pi", self.actor_class, kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Build the critics, with experts where they are wanted."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return make_part(self, "qf", self.critic_class, kwargs)
