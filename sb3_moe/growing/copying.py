"""Copy an expert onto another one; nothing changes its shape."""

from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from sb3_moe.layers.moe import MoELayer
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.of_model import policy_of


@th.no_grad()
def copy_expert(model: BaseAlgorithm, source: int, target: int) -> None:
    """Make an expert a copy of another one, in every mixture with ``router="belief"``.

    Target networks and the optimizers' averages follow.

    :param model: with a policy of this package
    :param source: number of the expert that is copied
    :param target: number of the expert that becomes a copy
    """
    policy: Any = policy_of(model)
    networks = networks_of(policy)
    followers = networks.followers()
    states = [optimizer.state for optimizer in {*networks.optimizers().values()}]
    for layer in policy.moe_layers().values():
        if layer.sees == "belief":
            for old, new in _pairs(layer, source, target):
                for tensor, n in ((old.tensor, old.num_experts),):
                    tensors = [(tensor, new.tensor)]
                    if tensor in followers:
                        tensors.append((followers[tensor], followers[new.tensor]))
                    for state in states:
                        if tensor in state and new.tensor in state:
                            tensors += [
                                (state[tensor][name], state[new.tensor][name])
                                for name in state[tensor]
                            ]
                    for one, other in tensors:
                        _copy(one, other, n, source - old.first, target - new.first)
    policy.teach_optimizers()


def _copy(source: Tensor, target: Tensor, num_experts: int, i: int, j: int) -> None:
    if num_experts == 1:
        target.copy_(source)
    elif source.numel() > 1:
        target.unflatten(0, (num_experts, -1))[j] = source.unflatten(0, (num_experts, -1))[i]


def _pairs(layer: MoELayer, source: int, target: int) -> Any:
    shares = layer.experts.shares()
    olds = [share for share in shares if share.of(source) is not None]
    news = [share for share in shares if share.of(target) is not None]
    return zip(olds, news, strict=True)
