"""The hidden layers of any policy of SB3, sb3-contrib or ours, found by their activations."""

from __future__ import annotations

import re
from typing import NamedTuple, TypeGuard, TypeVar

from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import nn

from sb3_moe.layers import Experts, MoELayer, SeparateNetworks, StackedNetwork
from sb3_moe.plasticity.activations import is_activation

M = TypeVar("M", bound=nn.Module)

# Where SB3 and sb3-contrib keep each tower; the first match names it.
TOWERS = (
    (r"(mlp_extractor\.policy_net|action_net)\b", "pi"),
    (r"(mlp_extractor\.value_net|value_net)\b", "vf"),
    (r"(vf_|critic\.)features_extractor\b", "vf_features"),
    (r"(\w+\.)?(pi_)?features_extractor\b", "features"),
    (r"critic\.(qf\d+)\b", r"\1"),
    (r"actor\.\w+", "pi"),
    (r"(q_net|quantile_net)\.\w+", "qf"),
)

TARGET = r"\w+_target\b"


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


def is_actor_critic(policy: BasePolicy) -> TypeGuard[ActorCriticPolicy]:
    """Tell policies with an actor and a value network behind one ``mlp_extractor``.

    sb3-contrib's for MaskablePPO has the same parts and methods, but is no ActorCriticPolicy.

    :param policy: of any algorithm
    """
    return hasattr(policy, "mlp_extractor") and hasattr(policy, "value_net")


def tower_of(path: str) -> str:
    """Name the tower that a module belongs to.

    :param path: the module's name among the policy's modules
    """
    for pattern, tower in TOWERS:
        if match := re.match(pattern, path):
            return match.expand(tower)
    return path.split(".")[0]


def online_modules(policy: BasePolicy) -> dict[str, nn.Module]:
    """Return the policy's modules by name, without those of target networks."""
    return {path: module for path, module in policy.named_modules() if not re.match(TARGET, path)}


def online_parameters(policy: BasePolicy) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of every tower, without those of target networks.

    :param policy: of any algorithm
    """
    towers: dict[str, list[nn.Parameter]] = {}
    for path, parameter in policy.named_parameters():
        if not re.match(TARGET, path):
            towers.setdefault(tower_of(path), []).append(parameter)
    return towers


def hidden_layers(policy: BasePolicy) -> list[HiddenLayer]:
    """List every hidden layer: each activation but an actor's squashed output, and a router's.

    :param policy: of any algorithm
    """
    modules = online_modules(policy)
    counts: dict[str, int] = {}
    layers = []
    for path, module in modules.items():
        if not is_activation(module) or _squashes_the_output(policy, module):
            continue
        mixture, experts = _nearest(modules, path, MoELayer), _nearest(modules, path, Experts)
        if mixture is not None and experts is None:
            continue
        tower = tower_of(path)
        index = counts[tower] = counts.get(tower, -1) + 1
        stacked = experts.num_experts if isinstance(experts, StackedNetwork) else 1
        expert = _which(experts, module) if isinstance(experts, SeparateNetworks) else None
        layers.append(HiddenLayer(f"{tower}.{index}", module, stacked, mixture, expert))
    return layers


def _which(experts: SeparateNetworks, module: nn.Module) -> int:
    """Return the number of the expert that a module is in."""
    return next(k for k, each in enumerate(experts.each) if module in set(each.modules()))


def _squashes_the_output(policy: BasePolicy, module: nn.Module) -> bool:
    """Tell TD3's last tanh, which belongs to the output layer, from a hidden one."""
    mu = getattr(getattr(policy, "actor", None), "mu", None)
    return mu is not None and list(mu.modules())[-1] is module


def _nearest(modules: dict[str, nn.Module], path: str, kind: type[M]) -> M | None:
    """Return the innermost module of a kind around a path."""
    while path:
        path = path.rpartition(".")[0]
        module = modules.get(path)
        if isinstance(module, kind):
            return module
    return None
