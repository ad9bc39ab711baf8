"""MoE policies for PPO, A2C and sb3-contrib's TRPO."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.plain_distributions import plain
from sb3_moe.policies.spectral import by_loss
from sb3_moe.policies.towers import Layout

HEAD_GAIN = {"pi": 0.01, "vf": 1.0}


if TYPE_CHECKING:

    class _Policy(MoEPolicy, ActorCriticPolicy):
        """What stands behind the mixin, or sb3-contrib's counterpart of it."""

else:
    _Policy = MoEPolicy


class MoEActorCritic(_Policy):
    """Give an actor-critic policy's ``mlp_extractor`` and heads experts."""

    adam_kwargs: ClassVar[dict[str, Any]] = {"eps": 1e-5}

    def _build_mlp_extractor(self) -> None:
        """Build SB3's networks and turn them into towers, before the heads are built on them."""
        super()._build_mlp_extractor()
        self._architects = self._make_architects()
        self._dense = {
            "pi": list(self.mlp_extractor.policy_net),
            "vf": list(self.mlp_extractor.value_net),
        }
        for tower, architect in self._architects.items():
            net, width = architect.body(self._dense[tower])
            name = "policy_net" if tower == "pi" else "value_net"
            setattr(self.mlp_extractor, name, net)
            setattr(self.mlp_extractor, f"latent_dim_{tower}", width)

    def _make_architects(self) -> dict[str, Architect]:
        """Return a builder for each tower that is not SB3's own."""
        extractors = {"pi": self.pi_features_extractor, "vf": self.vf_features_extractor}
        architects = {}
        for tower, extractor in extractors.items():
            layout = self.layout(extractor)
            if not self.is_dense(tower, layout):
                architects[tower] = self._make_architect(tower, layout)
        return architects

    def _make_architect(self, tower: str, layout: Layout, **kwargs: Any) -> Architect:
        def orthogonal(gain: float, module: nn.Module) -> None:
            module.apply(partial(self.init_weights, gain=gain))

        if not self.ortho_init:
            return self.architect(tower, layout, **kwargs)
        return self.architect(
            tower,
            layout,
            init_hidden=partial(orthogonal, np.sqrt(2)),
            init_head=partial(orthogonal, HEAD_GAIN[tower]),
            **kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        """Build as SB3 does, then the heads with experts, then the optimiser over all of it."""
        if any(options.is_moe for options in self.moe.values()):
            self.action_dist: Any = plain(self.action_dist)
        super()._build(lr_schedule)
        for tower, architect in self._architects.items():
            name = "action_net" if tower == "pi" else "value_net"
            linear, dense = getattr(self, name), self._dense[tower]
            setattr(self, name, architect.head(linear, dense))
            # Only now: SB3 has initialised what it visits.
            body = getattr(self.mlp_extractor, "policy_net" if tower == "pi" else "value_net")
            architect.match([body, getattr(self, name)], [*dense, linear])
        if self._architects:
            self._rebuild_optimizer(lr_schedule)
        del self._architects, self._dense

    def evaluate_actions(self, *args: Any, **kwargs: Any) -> Any:
        """Judge actions as SB3's policy does, and let penalties know what is said of them."""
        values, log_prob, entropy = super().evaluate_actions(*args, **kwargs)
        for penalty in by_loss(self):
            penalty.watch(log_prob, entropy)
        return values, log_prob, entropy

    def _rebuild_optimizer(self, lr_schedule: Schedule) -> None:
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]  # as in SB3
            **self.optimizer_kwargs,
        )


class MoeMlpPolicy(MoEActorCritic, ActorCriticPolicy):
    """MoE policy for flat observations (PPO, A2C, TRPO)."""


class MoeCnnPolicy(MoEActorCritic, ActorCriticCnnPolicy):
    """MoE policy for images (PPO, A2C, TRPO)."""


class MoeMultiInputPolicy(MoEActorCritic, MultiInputActorCriticPolicy):
    """MoE policy for Dict observations (PPO, A2C, TRPO)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
