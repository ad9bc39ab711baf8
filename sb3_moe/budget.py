"""What a policy costs: parameters, active parameters, FLOPs, and the dense network that matches.

A fair comparison needs a dense network of the same parameters and one of the same FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_moe.layers import (
    ExpertChoiceMoE,
    LinearRouter,
    MoELayer,
    SoftMoE,
    SparseMoE,
    TaskMoE,
)
from sb3_moe.policies.moe_policy import MoEPolicy


@dataclass(frozen=True)
class Cost:
    """What one tower, or one features extractor, costs.

    :param parameters: learned numbers
    :param active: those that a token uses: the chosen experts' and all that is not an expert's
    :param flops: multiplications and additions of one forward pass of one sample
    """

    parameters: int = 0
    active: int = 0
    flops: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Add up two parts of a network."""
        return Cost(
            self.parameters + other.parameters,
            self.active + other.active,
            self.flops + other.flops,
        )


@dataclass(frozen=True)
class Budget:
    """A policy's cost by part.

    :param parts: cost by name: ``"features"``, and each tower's
    """

    parts: dict[str, Cost]

    @property
    def total(self) -> Cost:
        """The whole policy: one forward pass through all of its online networks."""
        return sum(self.parts.values(), Cost())

    def __str__(self) -> str:
        rows = [*self.parts.items(), ("total", self.total)]
        lines = [f"{'':<10}{'parameters':>12}{'active':>12}{'FLOPs/sample':>14}"]
        for name, cost in rows:
            lines.append(f"{name:<10}{cost.parameters:>12,}{cost.active:>12,}{cost.flops:>14,}")
        return "\n".join(lines)


def describe(model: BaseAlgorithm | MoEPolicy) -> Budget:
    """Print what a model's policy is made of and what it costs, and return the costs.

    :param model: an SB3 model, or the policy of one
    :raises TypeError: if the policy is not one of this package's
    """
    policy = _policy_of(model)
    budget = measure(policy)
    for tower, options in policy.moe.items():
        print(f"{tower}: {_in_words(policy, tower, options.placement)}")
    print(budget)
    return budget


def measure(policy: MoEPolicy) -> Budget:
    """Count a policy's parameters and the FLOPs of one sample.

    :param policy: an MoE policy, ``placement="none"`` included
    """
    obs = _one_sample(policy.observation_space)
    with th.no_grad(), _flops_by_module(policy) as flops:
        policy.routing(obs)
    parts: dict[str, Cost] = {}
    counted: set[int] = set()
    for tower, modules in policy.tower_modules().items():
        parts[tower] = sum((_cost(m, flops, counted) for m in modules), Cost())
    # A Gaussian policy's log_std belongs to no module but the policy.
    own = sum(p.numel() for p in policy.parameters(recurse=False))
    if own:
        parts["pi"] += Cost(own, own)
    extractors = [m for m in policy.modules() if _is_extractor(policy, m)]
    features = sum((_cost(m, flops, counted) for m in extractors), Cost())
    return Budget({"features": features, **parts} if features.parameters else parts)


def matching_net_arch(
    policy_class: type[MoEPolicy],
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    policy_kwargs: dict[str, Any],
    match: str = "parameters",
) -> dict[str, list[int]] | list[int]:
    """Return the ``net_arch`` of the dense policy that costs what an MoE policy costs.

    All hidden widths of a tower are scaled together until its count comes as near as it can.

    :param policy_class: one of this package's policies
    :param observation_space: observation space
    :param action_space: action space
    :param policy_kwargs: the MoE policy's
    :param match: ``"parameters"`` or ``"flops"``
    :return: as the policy takes it: one list for a policy with one tower, else a dict by tower
    :raises ValueError: if ``match`` is neither, or a tower has no hidden layer to widen
    """
    if match not in ("parameters", "flops"):
        raise ValueError(f"`match` must be 'parameters' or 'flops', got {match!r}")

    def build(**kwargs: Any) -> MoEPolicy:
        merged = policy_kwargs | kwargs
        return policy_class(observation_space, action_space, lambda _: 1e-3, **merged)

    moe = build()
    widths = _net_arch_by_tower(moe)
    wanted = _count_by_tower(moe, match)
    for tower, start in widths.items():
        if not start:
            raise ValueError(f"`net_arch` of {tower!r} must have a hidden layer to widen, got []")

        def count(factor: float, tower: str = tower, start: list[int] = start) -> int:
            arch = {**widths, tower: _scaled(start, factor)}
            return _count_by_tower(build(placement="none", net_arch=_as_given(arch)), match)[tower]

        widths[tower] = _scaled(start, _bisect(count, wanted[tower]))
    return _as_given(widths)


def controls(policy_kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the controls for conv tokens, as ``policy_kwargs`` by name (arXiv 2410.01930).

    ``"one_scaled_expert"`` is one expert as wide as all together; ``"tokenised_dense"`` is the
    dense layer applied to each token: one expert of the usual width, without a router.

    :param policy_kwargs: the MoE policy's, with ``tokens="conv"`` or ``"feature"``
    :raises ValueError: if the tokens are samples, for which these controls are not meant
    """
    if policy_kwargs.get("tokens", "sample") == "sample":
        raise ValueError("`tokens` must be 'conv' or 'feature' for these controls, got 'sample'")
    base = {key: v for key, v in policy_kwargs.items() if key not in ("num_slots", "top_k")}
    width = policy_kwargs.get("expert_width") or policy_kwargs.get("net_arch", [512])[0]
    num_experts = policy_kwargs.get("num_experts") or 4
    return {
        "one_scaled_expert": base
        | {"router": "soft", "num_experts": 1, "expert_width": num_experts * width},
        "tokenised_dense": base | {"router": "uniform", "num_experts": 1},
    }


# Counting.


def _policy_of(model: BaseAlgorithm | MoEPolicy) -> MoEPolicy:
    policy = model.policy if isinstance(model, BaseAlgorithm) else model
    if not isinstance(policy, MoEPolicy):
        raise TypeError(
            f"`model` must have one of this package's policies, got {type(policy).__name__}; "
            "placement='none' gives the dense one"
        )
    return policy


def _in_words(policy: MoEPolicy, tower: str, placement: str) -> str:
    if placement == "none":
        return "dense"
    options = policy.moe[tower]
    layers = [m for name, m in policy.moe_layers().items() if name.startswith(tower)]
    words = f"{placement}, {options.router} router, {layers[0].num_experts} experts"
    return words + (f", {options.tokens} tokens" if options.tokens != "sample" else "")


def _one_sample(space: gym.Space[Any]) -> Any:
    if isinstance(space, gym.spaces.Dict):
        return {key: _one_sample(each) for key, each in space.spaces.items()}
    return np.zeros((1, *(space.shape or ())), space.dtype)


def _is_extractor(policy: MoEPolicy, module: nn.Module) -> bool:
    return isinstance(module, policy.features_extractor_class)


def _cost(module: nn.Module, flops: dict[int, int], counted: set[int]) -> Cost:
    """Add up a module's parts that were not counted before (networks can share an extractor)."""
    cost = Cost()
    for part in module.modules():
        if id(part) in counted:
            continue
        counted.add(id(part))
        own = sum(p.numel() for p in part.parameters(recurse=False))
        cost += Cost(own, own, flops.get(id(part), 0))
        if isinstance(part, MoELayer):
            idle = sum(p.numel() for p in part.experts.parameters())
            cost += Cost(0, -round(idle * (1 - _active_share(part))), 0)
    return cost


def _active_share(layer: MoELayer) -> float:
    """Return the share of its experts that a token uses."""
    if isinstance(layer, SparseMoE | ExpertChoiceMoE):
        return layer.top_k / layer.num_experts
    return 1 / layer.num_experts if isinstance(layer, TaskMoE) else 1.0


@contextmanager
def _flops_by_module(module: nn.Module) -> Iterator[dict[int, int]]:
    """Count while the block runs: by id of each layer, an MoE layer as one."""
    flops: dict[int, int] = {}
    inside = {id(p) for m in module.modules() if isinstance(m, MoELayer) for p in m.modules()}

    def hook(layer: nn.Module, args: tuple[th.Tensor, ...], output: Any) -> None:
        if isinstance(layer, MoELayer):
            flops[id(layer)] = _moe_flops(layer, *args)
        elif id(layer) not in inside:
            flops[id(layer)] = _dense_flops(layer, args, output)

    handles = [m.register_forward_hook(hook) for m in module.modules()]
    try:
        yield flops
    finally:
        for handle in handles:
            handle.remove()


def _dense_flops(layer: nn.Module, args: tuple[th.Tensor, ...], output: Any) -> int:
    if isinstance(layer, nn.Linear):
        return 2 * output.numel() * layer.in_features
    if isinstance(layer, nn.Conv2d):
        window = math.prod(layer.kernel_size) * layer.in_channels // layer.groups
        return 2 * output.numel() * window
    if isinstance(layer, nn.LSTM):
        weights = sum(p.numel() for name, p in layer.named_parameters() if "weight" in name)
        return 2 * weights * args[0][..., 0].numel()
    return 0


def _moe_flops(layer: MoELayer, x_BNI: th.Tensor, router_BNR: th.Tensor | None = None) -> int:
    """Count what the routing needs, whichever path the layer took."""
    num_tokens, width = x_BNI.shape[1:]
    experts = layer.num_experts
    rows, mixing, scoring = experts * num_tokens, 0, 0
    if isinstance(layer, SoftMoE) and num_tokens > 1:
        rows = experts * layer.num_slots
        mixing = 2 * num_tokens * rows * (width + layer.experts.out_features)
    elif isinstance(layer, SparseMoE):
        rows = num_tokens * layer.top_k
    elif isinstance(layer, ExpertChoiceMoE):
        rows = experts * math.ceil(num_tokens * layer.top_k / experts)
    elif isinstance(layer, TaskMoE):
        rows = num_tokens
    router = getattr(layer, "router", None)
    if isinstance(router, LinearRouter):
        scoring = 2 * num_tokens * router.weight_RK.numel()
    return rows * _expert_flops(layer, width) + mixing + scoring


def _expert_flops(layer: MoELayer, width: int) -> int:
    expert = layer.experts.expert(0)
    with _flops_by_module(expert) as flops:
        expert(th.zeros(1, width, device=next(expert.parameters()).device))
    return sum(flops.values())


# Matching.


def _count_by_tower(policy: MoEPolicy, match: str) -> dict[str, int]:
    parts = measure(policy).parts
    # Critics are alike: the first stands for all.
    by_tower = {tower: parts.get(tower, parts.get(f"{tower}0")) for tower in policy.towers}
    return {tower: getattr(cost, match) for tower, cost in by_tower.items()}


def _net_arch_by_tower(policy: MoEPolicy) -> dict[str, list[int]]:
    net_arch: Any = policy.net_arch
    if isinstance(net_arch, dict):
        return {tower: list(net_arch.get(tower, [])) for tower in policy.towers}
    return {tower: list(net_arch) for tower in policy.towers}


def _as_given(widths: dict[str, list[int]]) -> dict[str, list[int]] | list[int]:
    return next(iter(widths.values())) if len(widths) == 1 else widths


def _scaled(widths: list[int], factor: float) -> list[int]:
    return [max(1, round(width * factor)) for width in widths]


def _bisect(count: Callable[[float], int], wanted: int) -> float:
    """Return the factor whose count is nearest to what is wanted; count grows with the factor."""
    low, high = 0.0, 1.0
    while count(high) < wanted:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return min((low, high), key=lambda factor: abs(count(factor) - wanted))
