"""MoE policies for DQN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from stable_baselines3.dqn.policies import CnnPolicy, DQNPolicy, MultiInputPolicy, QNetwork

from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.parts import MoEPart, make_part

if TYPE_CHECKING:

    class _Policy(MoEPolicy, DQNPolicy):
        """What stands behind the mixin."""

else:
    _Policy = MoEPolicy


class MoEQ(MoEPolicy):
    """What policies with one Q network share: a single network, ``"qf"``."""

    network_names: ClassVar[tuple[str, ...]] = ("qf",)
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


class MoeMlpPolicy(MoEDQN, DQNPolicy):
    """MoE policy for flat observations (DQN)."""


class MoeCnnPolicy(MoEDQN, CnnPolicy):
    """MoE policy for images (DQN)."""


class MoeMultiInputPolicy(MoEDQN, MultiInputPolicy):
    """MoE policy for Dict observations (DQN)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
