"""What MoE policies with an actor and critics of Box actions share (SAC, TD3, TQC, CrossQ)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

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

    def tower_modules(self) -> dict[str, list[nn.Module]]:
        """Return the actor and each online critic."""
        parts = [self.actor.latent_pi, self.actor.mu, self.actor.log_std]
        actor = [part for part in parts if isinstance(part, nn.Module)]
        return {"pi": actor, **self._critic_modules()}

    def _critic_modules(self) -> dict[str, list[nn.Module]]:
        return {f"qf{i}": [net] for i, net in enumerate(self.critic.q_networks)}

    def _run_towers(self, obs: PyTorchObs, actions: th.Tensor | None) -> None:
        own = self._predict(obs, deterministic=True)
        self.critic(obs, own if actions is None else actions)
