"""Policies with an actor and a value network behind one ``mlp_extractor`` (PPO, A2C, TRPO).

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_moe.networks.base import Network, Networks
from sb3_moe.networks.decisions import Decision, of_distribution


class ActorCriticNetworks(Networks):
    """The networks of PPO, A2C, TRPO and MaskablePPO: one optimizer learns all of them.

    sb3-contrib's policy for MaskablePPO has the same parts and methods, but another base class.
    """

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether there is a value network beside an actor, with hidden layers of each."""
        hidden = getattr(policy, "mlp_extractor", None)
        return hasattr(policy, "value_net") and hasattr(hidden, "policy_net")

    def networks(self) -> list[Network]:
        """Return actor and value network."""
        policy, net = self.policy, self.policy.mlp_extractor
        return [
            Network("pi", policy.pi_features_extractor, net.policy_net, (policy.action_net,)),
            Network("vf", policy.vf_features_extractor, net.value_net, (policy.value_net,)),
        ]

    def fresh_memory(self, obs: PyTorchObs) -> tuple[Any, ...]:
        """Return what the policy needs besides observations at the start of an episode.

        :param obs: a batch of observations
        """
        return ()

    def run(self, obs: PyTorchObs, actions: th.Tensor | None = None) -> None:
        """Run both towers."""
        memory = self.fresh_memory(obs)
        self.policy.get_distribution(obs, *memory)
        self.policy.predict_values(obs, *memory)

    def outputs(self, obs: PyTorchObs) -> dict[str, th.Tensor]:
        """Return what the actor prefers, and the value."""
        memory = self.fresh_memory(obs)
        distribution = self._distribution(obs, memory)
        mode = distribution.mode()
        continuous = isinstance(self.policy.action_space, spaces.Box)
        actor_B = mode.sum(-1) if continuous else distribution.log_prob(mode)
        return {"pi": actor_B, "vf": self.policy.predict_values(obs, *memory).flatten()}

    def decide(
        self, obs: PyTorchObs, memory: Any, starts: th.Tensor, **masks: Any
    ) -> tuple[Decision, Any]:
        """Return the actor's distribution and the value."""
        values_B = self.policy.predict_values(obs).flatten()
        return of_distribution(self.policy.get_distribution(obs, **masks), {"vf": values_B}), None

    def taken(self, obs: PyTorchObs, actions: th.Tensor) -> list[th.Tensor]:
        """Return the log-probability of the actions, at the start of an episode."""
        if isinstance(self.policy.action_space, spaces.Discrete):
            actions = actions.long().flatten()  # buffers keep a column
        return [self._distribution(obs, self.fresh_memory(obs)).log_prob(actions)]

    def _distribution(self, obs: PyTorchObs, memory: tuple[Any, ...]) -> Any:
        return self.policy.get_distribution(obs, *memory)


class Memories(NamedTuple):
    """The states of both LSTMs, named as sb3-contrib does."""

    pi: Any
    vf: Any


class RecurrentNetworks(ActorCriticNetworks):
    """The networks of RecurrentPPO, which stand behind LSTMs."""

    kept_as: ClassVar[Mapping[str, str]] = {
        "lstm_hidden_size": "lstm_output_dim",
        "n_lstm_layers": "lstm_actor.num_layers",
    }

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether the actor has an LSTM."""
        return super().fits(policy) and hasattr(policy, "lstm_actor")

    def networks(self) -> list[Network]:
        """Return actor and value network, each with what feeds it."""
        actor, value = super().networks()
        lstm = self.policy.lstm_actor
        # Without an LSTM of its own a critic has a linear layer, or shares the actor's.
        of_value = self.policy.lstm_critic or self.policy.critic or lstm
        return [actor._replace(memory=lstm), value._replace(memory=of_value)]

    def memories(self) -> dict[str, nn.Module]:
        """Return the LSTMs, and the linear layer of a critic that has none."""
        names = ("lstm_actor", "lstm_critic", "critic")
        found = {name: getattr(self.policy, name) for name in names}
        return {name: module for name, module in found.items() if module is not None}

    def fresh_memory(self, obs: PyTorchObs) -> tuple[Any, ...]:
        """Return an empty memory and the sign that an episode starts."""
        batch = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        layers, _, width = self.policy.lstm_hidden_state_shape
        zeros = th.zeros(layers, batch, width, device=self.policy.device)
        return (zeros, zeros), th.ones(batch, device=self.policy.device)

    def decide(
        self, obs: PyTorchObs, memory: Any, starts: th.Tensor, **masks: Any
    ) -> tuple[Decision, Any]:
        """Return the actor's distribution and the value, and move both memories on."""
        if memory is None:
            (zeros, _), _ = self.fresh_memory(obs)
            memory = Memories((zeros, zeros), (zeros, zeros))
        found, _ = self.policy.get_distribution(obs, memory.pi, starts)
        _, values_B, _, after = self.policy.forward(obs, memory, starts, deterministic=True)
        return of_distribution(found, {"vf": values_B.flatten()}), after

    def _distribution(self, obs: PyTorchObs, memory: tuple[Any, ...]) -> Any:
        # The memory that comes with it is not needed.
        return self.policy.get_distribution(obs, *memory)[0]
