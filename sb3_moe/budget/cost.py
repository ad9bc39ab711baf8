"""Counting what a policy costs, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from torch import nn

from sb3_moe.budget.flops import flops_by_module, num_chosen
from sb3_moe.layers import MoELayer
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.networks import Networks, networks_of
from sb3_moe.networks.masks import alive_in
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.options import DEFAULTS


@dataclass(frozen=True)
class Cost:
    """What one tower, or one features extractor, costs.

    :param parameters: learned numbers; of a sparse network those that are alive
    :param active: those that a token uses: the chosen experts' and all that is not an expert's
    :param flops: multiplications and additions of one forward pass of one sample; those with a
        sparse network's zeros count, since they are done
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
    """A policy's cost by part; target networks are no part of it.

    :param parts: cost by name: ``"features"`` (all features extractors), each tower's, and
        ``"lstm"`` (or ``"other"``) for what is neither
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


class Described(Budget):
    """A budget that was printed already, so that a notebook doesn't show it again."""

    def _ipython_display_(self) -> None:
        """Show nothing."""


def describe(model: BaseAlgorithm | BaseModel) -> Budget:
    """Print what a model's policy is made of and what it costs, and return the costs.

    In a notebook it is shown once, as the last line of a cell too.

    >>> from stable_baselines3 import PPO
    >>> costs = describe(PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"num_experts": 2}))
    pi: middle, soft router, 2 experts
    vf: middle, soft router, 2 experts
                parameters      active  FLOPs/sample
    pi              17,218      17,218        33,792
    vf              17,153      17,153        33,664
    total           34,371      34,371        67,456

    :param model: an SB3 model, or the policy of one
    :raises TypeError: if the policy is not one of this package's
    """
    policy = policy_of(model)
    budget = Described(measure(policy).parts)
    for tower in policy.moe:
        print(f"{tower}: {_in_words(policy, tower)}")
    if alive := _alive(networks_of(policy)):
        masked = sum(parameter.numel() for parameter in alive)
        print(f"sparse: {sum(alive.values()):,} of {masked:,} weights are alive")
    print(budget)
    return budget


def measure(policy: BaseModel) -> Budget:
    """Count the parameters of a policy's online networks, each once, and the FLOPs of one sample.

    :param policy: of any algorithm, ours or SB3's own
    """
    networks = networks_of(policy)
    obs, _ = policy.obs_to_tensor(_one_sample(policy.observation_space))
    parts = [each for part in networks.parts().values() for each in part]
    with th.no_grad(), evaluating(policy), flops_by_module(policy, parts) as flops:
        networks.run(obs)
    own = [each for parameters in networks.loose().values() for each in parameters]
    counted = {id(each) for each in own}
    alive = _alive(networks)

    def cost(modules: Iterable[nn.Module], *, runs: bool = False) -> Cost:
        return sum((_cost(module, flops, counted, alive, runs=runs) for module in modules), Cost())

    towers = {tower: cost(modules, runs=True) for tower, modules in networks.towers().items()}
    # A Gaussian's log_std is the actor's, and so comes to the first.
    towers[next(iter(towers))] += _learned(own, alive)
    features = cost(networks.extractors().values())
    rest = cost(networks.online().values())
    found = {"features": features, "lstm" if networks.memories() else "other": rest}
    return Budget({name: each for name, each in found.items() if each != Cost()} | towers)


def _in_words(policy: MoEPolicy, tower: str) -> str:
    options = policy.moe[tower]
    place, head = options.place, options.head_router_class
    layers = [m for name, m in policy.moe_layers().items() if name.startswith(tower)]
    words = [place.name if place.has_experts else "dense"]
    if place.hidden is not None or (place.has_experts and head is None):
        router = options.router_class.name
        words += [f"{router} router", f"{layers[0].num_experts} experts"]
    if place.has_experts and options.combine == "orthogonal":
        words.append("orthogonal outputs")
    if place.has_experts and options.spectral_coef:
        words.append("penalised features")
    if options.block != DEFAULTS["block"]:
        words.append(f"{options.block} blocks")
    if options.embeds_task:
        words.append(f"task embeddings of {options.task_embedding}")
    if head is not None:
        words.append(f"{layers[-1].num_experts} heads by the {head.name} router")
    if options.is_tokenized:
        words.append(f"{options.tokens} tokens")
    return ", ".join(words)


def _one_sample(space: gym.Space[Any]) -> Any:
    if isinstance(space, gym.spaces.Dict):
        return {key: _one_sample(each) for key, each in space.spaces.items()}
    return np.zeros((1, *(space.shape or ())), space.dtype)


def _alive(networks: Networks) -> dict[th.Tensor, int]:
    """Return how many weights of each masked parameter are alive."""
    optimizers = networks.every_optimizer()
    return {p: number for each in optimizers for p, number in alive_in(each).items()}


def _number(parameters: Iterable[nn.Parameter], alive: Mapping[th.Tensor, int]) -> int:
    return sum(alive.get(each, each.numel()) for each in parameters)


def _learned(parameters: Iterable[nn.Parameter], alive: Mapping[th.Tensor, int]) -> Cost:
    """Return what parameters cost that every token uses."""
    number = _number(parameters, alive)
    return Cost(number, number)


def _cost(
    module: nn.Module,
    flops: dict[int, int],
    counted: set[int],
    alive: Mapping[th.Tensor, int],
    *,
    runs: bool,
) -> Cost:
    """Add up a module's parts that were not counted before (networks can share an extractor).

    :param runs: whether parts that were, such as an encoder that all critics have, run here again
    """
    cost = Cost()
    for part in module.modules():
        if id(part) in counted:
            cost += Cost(flops=flops.get(id(part), 0) * runs)
            continue
        counted.add(id(part))
        own = [p for p in part.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))  # tied weights are one
        cost += _learned(own, alive) + Cost(flops=flops.get(id(part), 0))
        if isinstance(part, MoELayer):
            idle = _number(part.experts.parameters(), alive)
            cost += Cost(0, -round(idle * (1 - num_chosen(part) / part.num_experts)), 0)
    return cost
