"""The hidden layers of any policy of SB3, sb3-contrib or ours, found by their activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_moe.layers import Experts, MoELayer, SeparateNetworks, StackedNetwork
from sb3_moe.layers.stacked import StackedEach
from sb3_moe.layers.temperatures import temperatures_in
from sb3_moe.networks import networks_of
from sb3_moe.plasticity.activations import is_activation

M = TypeVar("M", bound=nn.Module)


class HiddenLayer(NamedTuple):
    """One hidden layer of a tower.

    :param name: ``<tower>.<index>``, counted from the input
    :param module: the activation module
    :param num_experts: 1 for a dense layer
    :param mixture: the mixture it is in, None for a dense layer
    :param expert: which of the mixture's experts it is in, None where it holds all of them
    """

    name: str
    module: nn.Module
    num_experts: int = 1
    mixture: MoELayer | None = None
    expert: int | None = None


def online_parameters(policy: BasePolicy) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of every tower, without those of target networks and temperatures.

    :param policy: of any algorithm
    """
    owners = networks_of(policy).owners()
    temperatures = temperatures_in(policy)
    towers: dict[str, list[nn.Parameter]] = {}
    for parameter in policy.parameters():
        if parameter in owners and parameter not in temperatures:
            towers.setdefault(owners[parameter], []).append(parameter)
    return towers


def hidden_layers(policy: BasePolicy) -> list[HiddenLayer]:
    """List every hidden layer: each activation but an actor's squashed output, and a router's.

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
        if _nearest(modules, path, StackedEach) is not None:
            continue  # one expert's part of a layer that all of them are in
        mixture, experts = _nearest(modules, path, MoELayer), _nearest(modules, path, Experts)
        if mixture is not None and experts is None:
            continue
        tower = owners[module]
        index = counts[tower] = counts.get(tower, -1) + 1
        stacked = experts.num_experts if isinstance(experts, StackedNetwork) else 1
        expert = _which(experts, module) if isinstance(experts, SeparateNetworks) else None
        layers.append(HiddenLayer(f"{tower}.{index}", module, stacked, mixture, expert))
    return layers


def _which(experts: SeparateNetworks, module: nn.Module) -> int:
    """Return the number of the expert that a module is in."""
    return next(k for k, each in enumerate(experts.each) if module in set(each.modules()))


def _nearest(modules: Mapping[str, nn.Module], path: str, kind: type[M]) -> M | None:
    """Return the innermost module of a kind around a path."""
    while path:
        path = path.rpartition(".")[0]
        module = modules.get(path)
        if isinstance(module, kind):
            return module
    return None
