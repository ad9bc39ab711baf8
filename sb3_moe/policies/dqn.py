"""MoE policies for DQN."""

from typing import Any

from stable_baselines3.dqn.policies import CnnPolicy, DQNPolicy, MultiInputPolicy, QNetwork

from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.parts import MoEPart, make_part


class MoEQ(MoEPolicy):
    """What policies with one Q network share: a single network, ``"qf"``."""

    network_names = ("qf",)
    net_args: dict[str, Any]


class MoEQNetwork(MoEPart, QNetwork):
    """DQN's network, with experts."""

    layers = "q_net"


class MoEDQN(MoEQ):
    """Give DQN's online and target networks experts."""

    def make_q_net(self) -> QNetwork:
        """Build the network, with experts where they are wanted."""
        return make_part(self, "qf", MoEQNetwork, self.net_args)


class MoeMlpPolicy(MoEDQN, DQNPolicy):
    """MoE policy for flat observations (DQN)."""


class MoeCnnPolicy(MoEDQN, CnnPolicy):
    """MoE policy for images (DQN)."""


class MoeMultiInputPolicy(MoEDQN, MultiInputPolicy):
    """MoE policy for Dict observations (DQN)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
