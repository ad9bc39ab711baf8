"""MoE policies for QR-DQN."""

from sb3_contrib.qrdqn.policies import CnnPolicy, MultiInputPolicy, QRDQNPolicy, QuantileNetwork

from sb3_moe.policies.dqn import MoEQ
from sb3_moe.policies.parts import MoEPart, make_part


class MoEQuantileNetwork(MoEPart, QuantileNetwork):
    """QR-DQN's network, with experts."""

    layers = "quantile_net"


class MoEQRDQN(MoEQ):
    """Give QR-DQN's online and target networks experts."""

    def make_quantile_net(self) -> QuantileNetwork:
        """Build the network, with experts where they are wanted."""
        return make_part(self, "qf", MoEQuantileNetwork, self.net_args)


class MoeMlpPolicy(MoEQRDQN, QRDQNPolicy):
    """MoE policy for flat observations (QR-DQN)."""


class MoeCnnPolicy(MoEQRDQN, CnnPolicy):
    """MoE policy for images (QR-DQN)."""


class MoeMultiInputPolicy(MoEQRDQN, MultiInputPolicy):
    """MoE policy for Dict observations (QR-DQN)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
