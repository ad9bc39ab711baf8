"""Policies with one network that values every action (DQN, QR-DQN).

Shapes: B batch, A actions, Q quantiles.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_moe.networks.base import Network, Networks
from sb3_moe.networks.decisions import Decision


class QNetworks(Networks):
    """The network of DQN: a single tower, ``"qf"``."""

    # What the policy calls its network, and the network its layers.
    name: ClassVar[str] = "q_net"

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether there is such a network."""
        return hasattr(policy, cls.name)

    def networks(self) -> list[Network]:
        """Return the online network."""
        net = getattr(self.policy, self.name)
        return [Network("qf", net.features_extractor, getattr(net, self.name))]

    def run(self, obs: PyTorchObs, actions: th.Tensor | None = None) -> None:
        """Run the network, which values every action."""
        self.values(obs)

    def outputs(self, obs: PyTorchObs) -> dict[str, th.Tensor]:
        """Return the value of the best action."""
        return {"qf": self.values(obs).max(dim=1).values}

    def decide(
        self, obs: PyTorchObs, memory: Any, starts: th.Tensor, **masks: Any
    ) -> tuple[Decision, Any]:
        """Return the value of each action, and of the best."""
        values_BA = self.values(obs)
        return Decision("value", (values_BA,), {"qf": values_BA.max(dim=1).values}), None

    def taken(self, obs: PyTorchObs, actions: th.Tensor) -> list[th.Tensor]:
        """Return the value of the actions."""
        return [self.values(obs).gather(1, actions.long().reshape(-1, 1)).flatten()]

    def values(self, obs: PyTorchObs) -> th.Tensor:
        """Return the value of each action, (B, A)."""
        values_BA: th.Tensor = getattr(self.policy, self.name)(obs)
        return values_BA


class QuantileNetworks(QNetworks):
    """The network of QR-DQN."""

    name: ClassVar[str] = "quantile_net"

    def values(self, obs: PyTorchObs) -> th.Tensor:
        """Return the mean of each action's quantiles, (B, A)."""
        quantiles_BQA = super().values(obs)
        return quantiles_BQA.mean(1)
