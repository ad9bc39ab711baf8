"""MoE policies for QR-DQN."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch as th
from sb3_contrib.qrdqn.policies import (
    CnnPolicy,
    MultiInputPolicy,
    QRDQNPolicy,
    QuantileNetwork,
)
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_moe.policies.dqn import MoEQ
from sb3_moe.policies.moe_policy import MoEPolicy

if TYPE_CHECKING:

    class _Policy(MoEPolicy, QRDQNPolicy):
        """What stands behind the mixin."""

else:
    _Policy = MoEPolicy


class MoEQRDQN(MoEQ, _Policy):
    """Give QR-DQN's online and target networks experts."""

    def make_quantile_net(self) -> QuantileNetwork:
        """Build the dense network and put the experts in."""
        net = super().make_quantile_net()
        tower = self.moe_network(net.features_extractor, net.quantile_net)
        net.quantile_net = tower  # type: ignore[assignment]  # a tower where there was a list
        return net

    def tower_modules(self) -> dict[str, list[nn.Module]]:
        """Return the online network."""
        return {"qf": [self.quantile_net.quantile_net]}

    def _run_towers(self, obs: PyTorchObs, actions: th.Tensor | None) -> None:
        self.quantile_net(obs)


class MoeMlpPolicy(MoEQRDQN, QRDQNPolicy):
    """MoE policy for flat observations (QR-DQN)."""


class MoeCnnPolicy(MoEQRDQN, CnnPolicy):
    """MoE policy for images (QR-DQN)."""

    dense_extractor: ClassVar[type[BaseFeaturesExtractor]] = NatureCNN
    encodes_images: ClassVar[bool] = True


class MoeMultiInputPolicy(MoEQRDQN, MultiInputPolicy):
    """MoE policy for Dict observations (QR-DQN)."""

    dense_extractor: ClassVar[type[BaseFeaturesExtractor]] = CombinedExtractor
    encodes_images: ClassVar[bool] = True


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
