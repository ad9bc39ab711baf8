"""MoE policies for DQN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch as th
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import CnnPolicy, DQNPolicy, MultiInputPolicy, QNetwork
from torch import nn

from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.parts import MoEPart, make_part
from sb3_moe.policies.placement import Architect

if TYPE_CHECKING:

    class _Policy(MoEPolicy, DQNPolicy):
        """What stands behind the mixin."""

else:
    _Policy = MoEPolicy


class MoEQ(MoEPolicy):
    """What policies with one Q network share: a single tower, ``"qf"``."""

    towers: ClassVar[tuple[str, ...]] = ("qf",)
    on_policy: ClassVar[bool] = False


class MoEQNetwork(MoEPart, QNetwork):
    """DQN's network, with experts."""

    dense_class: ClassVar[type[Any]] = QNetwork

    def put_experts(self, architect: Architect) -> None:
        """Replace the one network."""
        self.q_net = architect.network(self.q_net)  # type: ignore[assignment]


class MoEDQN(MoEQ, _Policy):
    """Give DQN's online and target networks experts."""

    def make_q_net(self) -> QNetwork:
        """Build the network, with experts where they are wanted."""
        kwargs = self._update_features_extractor(self.net_args)
        net: QNetwork = make_part(self, "qf", MoEQNetwork, kwargs)
        return net

    def tower_modules(self) -> dict[str, list[nn.Module]]:
        """Return the online network."""
        return {"qf": [self.q_net.q_net]}

    def _run_towers(self, obs: PyTorchObs, actions: th.Tensor | None) -> None:
        self.q_net(obs)


class MoeMlpPolicy(MoEDQN, DQNPolicy):
    """MoE policy for flat observations (DQN)."""


class MoeCnnPolicy(MoEDQN, CnnPolicy):
    """MoE policy for images (DQN)."""

    dense_extractor: ClassVar[type[BaseFeaturesExtractor]] = NatureCNN
    encodes_images: ClassVar[bool] = True


class MoeMultiInputPolicy(MoEDQN, MultiInputPolicy):
    """MoE policy for Dict observations (DQN)."""

    dense_extractor: ClassVar[type[BaseFeaturesExtractor]] = CombinedExtractor
    encodes_images: ClassVar[bool] = True


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
