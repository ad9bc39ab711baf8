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

if TYPE_CHECKING:

    class _Policy(MoEPolicy, DQNPolicy):
        """What stands behind the mixin."""

else:
    _Policy = MoEPolicy


class MoEQ(MoEPolicy):
    """What policies with one Q network share: a single tower, ``"qf"``."""

    towers: ClassVar[tuple[str, ...]] = ("qf",)
    on_policy: ClassVar[bool] = False

    def moe_network(self, extractor: BaseFeaturesExtractor, dense: Any) -> nn.Module:
        """Return the network with experts, or SB3's own where there are none to be."""
        layout = self.layout(extractor)
        if self.is_dense("qf", layout):
            return dense
        return self.architect("qf", layout).network(dense).to(self.device)


class MoEDQN(MoEQ, _Policy):
    """Give DQN's online and target networks experts."""

    def make_q_net(self) -> QNetwork:
        """Build SB3's network and put the experts in."""
        net = super().make_q_net()
        net.q_net = self.moe_network(net.features_extractor, net.q_net)  # type: ignore[assignment]
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
