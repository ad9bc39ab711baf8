"""What MoE policies with an actor and critics of Box actions share (SAC, TD3, TQC, CrossQ)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_moe.placement import Architect
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.towers import Columns

if TYPE_CHECKING:

    class _Policy(MoEPolicy, SACPolicy):
        """What stands behind the mixin: SAC's policy, or one with the same methods."""

    _Critic = ContinuousCritic
else:
    _Policy = MoEPolicy
    _Critic = object


class TowerCritic(_Critic):
    """A critic that hands features and actions to its towers apart.

    SB3's critics join the two first; a tower has to tell whether the actions carry a gradient.
    """

    def towers_forward(
        self, obs: PyTorchObs, actions: th.Tensor, *, grad: bool, only_first: bool = False
    ) -> tuple[th.Tensor, ...]:
        """Return each tower's output.

        :param obs: observations
        :param actions: actions, scaled to [-1, 1]
        :param grad: whether the features extractor learns from this pass
        :param only_first: run the first tower alone
        """
        with th.set_grad_enabled(grad and th.is_grad_enabled()):
            features = self.extract_features(obs, self.features_extractor)
        towers = self.q_networks[:1] if only_first else self.q_networks
        return tuple(tower(features, actions) for tower in towers)

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """Return the Q values by every tower, (B, 1) each."""
        # As in SB3: a shared features extractor learns from the actor's loss only.
        return self.towers_forward(obs, actions, grad=not self.share_features_extractor)


class MoEContinuousCritic(TowerCritic, ContinuousCritic):
    """SB3's critic of SAC, TD3 and DDPG, with towers."""

    def q1_forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """Return the Q values by the first tower, as TD3's actor loss needs them."""
        return self.towers_forward(obs, actions, grad=False, only_first=True)[0]


class MoEActorWithCritics(_Policy):
    """Give the actor, and each critic, experts."""

    towers: ClassVar[tuple[str, ...]] = ("pi", "qf")
    on_policy: ClassVar[bool] = False
    critic_class: ClassVar[type[Any]] = MoEContinuousCritic

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Build SB3's actor and put the experts in."""
        actor = super().make_actor(features_extractor)
        layout = self.layout(actor.features_extractor)
        if not self.is_dense("pi", layout):
            self.put_into_actor(actor, self.architect("pi", layout))
        return actor.to(self.device)

    def put_into_actor(self, actor: Any, architect: Architect) -> None:
        """Replace an actor's hidden layers and heads (SAC, TQC, CrossQ)."""
        if architect.options.placement == "big":
            self._put_big_actor(actor, architect)
            return
        dense = list(actor.latent_pi)
        actor.latent_pi, width = architect.body(dense)
        if actor.use_sde:
            actor.mu, actor.log_std = actor.action_dist.proba_distribution_net(
                latent_dim=width, latent_sde_dim=width, log_std_init=actor.log_std_init
            )
            actor.mu = architect.head(actor.mu, dense)
            if actor.clip_mean > 0.0:
                # As in SB3, against means too large for gSDE.
                actor.mu = nn.Sequential(actor.mu, nn.Hardtanh(-actor.clip_mean, actor.clip_mean))
            return
        for name in ("mu", "log_std"):
            head = getattr(actor, name)
            if head.in_features != width:
                head = nn.Linear(width, head.out_features)
            setattr(actor, name, architect.head(head, dense))

    @staticmethod
    def _put_big_actor(actor: Any, architect: Architect) -> None:
        """Let each expert give mean and log standard deviation together."""
        action_dim = actor.mu.out_features
        both = nn.Linear(actor.mu.in_features, 2 * action_dim)
        actor.latent_pi = architect.network([*actor.latent_pi, both])
        actor.mu = Columns(0, action_dim)
        actor.log_std = Columns(action_dim, 2 * action_dim)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Build the critics, with experts where they are wanted."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        extractor = kwargs["features_extractor"]
        layout = self.layout(extractor, action_dim=get_action_dim(self.action_space))
        if self.is_dense("qf", layout):
            return super().make_critic(extractor)
        critic = self.critic_class(**kwargs)
        for i, dense in enumerate(critic.q_networks):
            critic.q_networks[i] = self.architect("qf", layout).network(dense)
            setattr(critic, f"qf{i}", critic.q_networks[i])
        return critic.to(self.device)

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
