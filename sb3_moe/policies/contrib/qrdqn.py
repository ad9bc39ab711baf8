"""MoE policies for QR-DQN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

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
from sb3_moe.policies.parts import MoEPart, make_part
from sb3_moe.policies.placement import Architect

if TYPE_CHECKING:

    class _Policy(MoEPolicy, QRDQNPolicy):
        """What stands behind the mixin."""

else:
    _Policy = MoEPolicy


class MoEQuantileNetwork(MoEPart, QuantileNetwork):
    """QR-DQN's network, with experts."""

    dense_class: ClassVar[type[Any]] = QuantileNetwork

    def put_experts(self, architect: Architect) -> None:
        """Replace the one network."""
        self.quantile_net = architect.network(self.quantile_net)  # type: ignore[assignment]


class MoEQRDQN(MoEQ, _Policy):
    """Give QR-DQN's online and target networks experts."""

    def make_quantile_net(self) -> QuantileNetwork:
        """Build the network, with experts where they are wanted."""
        kwargs = self._update_features_extractor(self.net_args)
        net: QuantileNetwork = make_part(self, "qf", MoEQuantileNetwork, kwargs)
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
