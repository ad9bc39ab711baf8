"""The hidden layers of any policy of SB3, sb3-contrib or ours, found by their activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_moe.layers import MoELayer, StackedNetwork
from sb3_moe.networks import networks_of
from sb3_moe.plasticity.activations import is_activation

M = TypeVar("M", bound=nn.Module)


class HiddenLayer(NamedTuple):
    """One hidden layer of a tower.

    :param name: ``<tower>.<index>``, counted from the input
    :param module: the activation module
    :param num_experts: 1 for a dense layer
    :param mixture: the mixture it is in, None for a dense layer
    """

    name: str
    module: nn.Module
    num_experts: int = 1
    mixture: MoELayer | None = None


def online_parameters(policy: BasePolicy) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of every tower, without those of target networks.

    :param policy: of any algorithm
    """
    owners = networks_of(policy).owners()
    towers: dict[str, list[nn.Parameter]] = {}
    for parameter in policy.parameters():
        if parameter in owners:
            towers.setdefault(owners[parameter], []).append(parameter)
    return towers


def hidden_layers(policy: BasePolicy) -> list[HiddenLayer]:
    """List every hidden layer: each activation but an actor's squashed output.

    :param policy: of any algorithm
    """
    networks = networks_of(policy)
    owners, squash = networks.owners(), networks.squash()
    modules = {path: module for path, module in policy.named_modules() if module in owners}
    counts: dict[str, int] = {}
    layers = []
    for path, module in modules.items():
        if not is_activation(module) or module is squash:
            continue
        tower = owners[module]
        index = counts[tower] = counts.get(tower, -1) + 1
        stacked = _nearest(modules, path, StackedNetwork)
        mixture = _nearest(modules, path, MoELayer)
        layers.append(
            HiddenLayer(f"{tower}.{index}", module, stacked.num_experts if stacked else 1, mixture)
        )
    return layers


def _nearest(modules: Mapping[str, nn.Module], path: str, kind: type[M]) -> M | None:
    """Return the innermost module of a kind around a path."""
    while path:
        path = path.rpartition(".")[0]
        module = modules.get(path)
        if isinstance(module, kind):
            return module
    return None
