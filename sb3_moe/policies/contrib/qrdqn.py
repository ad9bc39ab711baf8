"""MoE policies for QR-DQN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sb3_contrib.qrdqn.policies import (
    CnnPolicy,
    MultiInputPolicy,
    QRDQNPolicy,
    QuantileNetwork,
)

from sb3_moe.policies.architect import Architect
from sb3_moe.policies.dqn import MoEQ
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.parts import MoEPart, make_part

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


class MoeMlpPolicy(MoEQRDQN, QRDQNPolicy):
    """MoE policy for flat observations (QR-DQN)."""


class MoeCnnPolicy(MoEQRDQN, CnnPolicy):
    """MoE policy for images (QR-DQN)."""


class MoeMultiInputPolicy(MoEQRDQN, MultiInputPolicy):
    """MoE policy for Dict observations (QR-DQN)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
