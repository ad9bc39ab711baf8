"""Policies with an actor and critics of its actions (SAC, TQC, CrossQ, TD3, DDPG).

Shapes: B batch, A actions.
"""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_moe.layers.fixed_moe import TaskEmbedding
from sb3_moe.networks.base import Network, Networks
from sb3_moe.networks.decisions import Decision


class ActorWithCriticsNetworks(Networks):
    """The networks of SAC, TQC and CrossQ: an optimizer for the actor and one for all critics."""

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether there are critics beside an actor."""
        return hasattr(policy, "actor") and hasattr(getattr(policy, "critic", None), "q_networks")

    def networks(self) -> list[Network]:
        """Return the actor and each critic."""
        critic = self.policy.critic
        critics = [
            Network(f"qf{i}", critic.features_extractor, net)
            for i, net in enumerate(critic.q_networks)
        ]
        return [self._actor(), *critics]

    def _actor(self) -> Network:
        actor = self.policy.actor
        # gSDE's log_std is one tensor.
        heads = tuple(h for h in (actor.mu, actor.log_std) if isinstance(h, nn.Module))
        return Network("pi", actor.features_extractor, actor.latent_pi, heads)

    def loose(self) -> dict[str, list[nn.Parameter]]:
        """Return the actor's as the actor's tower's."""
        own = list(self.policy.actor.parameters(recurse=False))
        return super().loose() | ({"pi": own} if own else {})

    def squash(self) -> nn.Module | None:
        """Return the last module of the actor's mean: TD3's is a tanh, and gSDE may clip it."""
        parts = self.policy.actor.mu.modules()
        return [part for part in parts if not isinstance(part, TaskEmbedding)][-1]

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        """Return the actor's, and for each critic the one of all critics."""
        actor, *critics = self.towers()
        of_critics = dict.fromkeys(critics, self.policy.critic.optimizer)
        return {actor: self.policy.actor.optimizer, **of_critics}

    def critic_optimizer(self) -> th.optim.Optimizer | None:
        """Return the critics': the actor's loss goes through the critics after their own step."""
        optimizer: th.optim.Optimizer = self.policy.critic.optimizer
        return optimizer

    def run(self, obs: PyTorchObs, actions: th.Tensor | None = None) -> None:
        """Run the actor, then the critics on its actions or on those given."""
        own_BA = self.policy._predict(obs, deterministic=True)
        self.policy.critic(obs, own_BA if actions is None else actions)

    def outputs(self, obs: PyTorchObs) -> dict[str, th.Tensor]:
        """Return the sum of the actor's actions, and each critic's value of them."""
        actions_BA = self.policy._predict(obs, deterministic=True)
        return {"pi": actions_BA.sum(-1), **self._values(obs, actions_BA)}

    def _values(self, obs: PyTorchObs, actions_BA: th.Tensor) -> dict[str, th.Tensor]:
        q_values: Any = self.policy.critic(obs, actions_BA.detach())
        # TQC's critic returns one tensor for all.
        critics = q_values if isinstance(q_values, tuple) else q_values.unbind(1)
        return {f"qf{i}": values.flatten(1).mean(1) for i, values in enumerate(critics)}

    def decide(
        self, obs: PyTorchObs, memory: Any, starts: th.Tensor, **masks: Any
    ) -> tuple[Decision, Any]:
        """Return the actor's most likely action, in [-1, 1], and the critics' values of it."""
        actions_BA = self.policy._predict(obs, deterministic=True)
        return Decision("mean", (actions_BA,), self._values(obs, actions_BA)), None

    def taken(self, obs: PyTorchObs, actions: th.Tensor) -> list[th.Tensor]:
        """Return the log-probability of the actions, in [-1, 1], and each critic's value."""
        return [*self._preference(obs, actions), *self._values(obs, actions).values()]

    def _preference(self, obs: PyTorchObs, actions: th.Tensor) -> list[th.Tensor]:
        actor = self.policy.actor
        mean_BA, log_std, noise = actor.get_action_dist_params(obs)
        # Where tasks have dimensions of their own, it depends on the observations.
        all_alike = getattr(actor, "own", None) is None
        distribution = actor.action_dist if all_alike else actor.own_distribution(obs)
        found = distribution.proba_distribution(mean_BA, log_std, **noise)
        return [found.log_prob(actions)]


class DeterministicActorNetworks(ActorWithCriticsNetworks):
    """The networks of TD3 and DDPG, whose actor is one network."""

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether the actor's hidden layers and head are one."""
        return super().fits(policy) and not hasattr(policy.actor, "latent_pi")

    def _actor(self) -> Network:
        return Network("pi", self.policy.actor.features_extractor, self.policy.actor.mu)

    def _preference(self, obs: PyTorchObs, actions: th.Tensor) -> list[th.Tensor]:
        # Without probabilities: as if they were Gaussian, of width 1.
        return list(self.policy.actor(obs).unbind(-1))
