"""From a model with experts to SB3's own dense model that does the same.

Shapes: O outputs, I inputs, H hidden units.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_moe.growing.distilling import distill as fit_dense
from sb3_moe.growing.gates import constant_gates
from sb3_moe.growing.layer_maps import LayerMap, columns, dense_leaves, parts_of
from sb3_moe.growing.models import (
    NOT_SB3S,
    WHY_NOT,
    as_sb3s,
    build_dense,
    check_defaults,
    check_same,
    sampled,
)
from sb3_moe.layers.stacked import flat
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, Networks, kind_of, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.towers import Columns, MoEBlock
from sb3_moe.saving.generators import undone_on_failure
from sb3_moe.vec_env.task_ids import TASK_KEY, one_hot_behind


class _Plain(NamedTuple):
    """A network as plain layers: hidden ones, and each head's."""

    network: Network
    hidden: list[nn.Module]
    heads: list[list[nn.Module]]

    def modules(self) -> nn.ModuleList:
        """Return all of them, in one."""
        return nn.ModuleList([*self.hidden, *(each for head in self.heads for each in head)])


def to_dense(model: BaseAlgorithm, task: int | None = None, *, distill: Any = None) -> Any:
    """Return SB3's own dense model that does what one with experts does.

    There is one where the mixture is one network: one expert, the task router with its task,
    uniform gates over linear experts. It needs nothing of this package to be loaded. Its optimizers
    start anew. The given model stays as it is.

    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"num_experts": 1})
    >>> type(to_dense(model).policy).__name__
    'ActorCriticPolicy'

    :param model: with one of our policies
    :param task: the task whose observations it is for, where experts or heads go by that
    :param distill: observations; a dense network is fitted to what the model does on them, as
        :func:`~sb3_moe.growing.distill` does, and this returns what that returns
    :raises TypeError: if the policy is not ours
    :raises ValueError: if the mixture is not one network, or images are encoded
    """
    if distill is not None:
        if task is not None:
            raise ValueError(
                f"`task` must be None with `distill`, whose observations hold theirs, got {task}"
            )
        return fit_dense(model, distill)
    old = policy_of(model)
    goes_by_task = any(layer.sees == "task" for layer in old.moe_layers().values())
    num_tasks = _num_tasks(old) if goes_by_task else 0
    if task is not None and task not in range(num_tasks):
        raise ValueError(
            f"`task` must be None, or one of the {num_tasks} that experts go by, got {task!r}"
        )
    with undone_on_failure():
        for options in old.moe.values():
            check_defaults(options, NOT_SB3S, WHY_NOT)
        found = [_plain(network, task) for network in networks_of(old).networks()]
        new = build_dense(model, old, _net_arch(old, found))
        _write(new.policy, old, found, task)
        obs = sampled(model.observation_space)
        check_same(new.policy, old, *[_of_task(old, obs, task)] * 2)
        return as_sb3s(new, model)


def _num_tasks(policy: Any) -> int:
    return one_hot_behind(networks_of(policy).extractors()["features"])


def _of_task(policy: MoEPolicy, obs: Any, task: int | None) -> Any:
    """Return observations as if all were of one task."""
    if task is None:
        return obs
    if isinstance(obs, dict):
        return {**obs, TASK_KEY: np.full_like(obs[TASK_KEY], task)}
    obs = obs.copy()
    num_tasks = _num_tasks(policy)
    obs[..., -num_tasks:] = np.eye(num_tasks, dtype=obs.dtype)[task]
    return obs


def _net_arch(old: MoEPolicy, found: Sequence[_Plain]) -> Any:
    widths: dict[str, list[int]] = {}
    for plain in found:
        own = [m.out_features for m in plain.hidden if isinstance(m, nn.Linear)]
        widths[kind_of(plain.network.tower)] = own if plain.heads else own[:-1]
    return widths if len(old.towers) > 1 else widths[old.towers[0]]


def _write(new: Any, old: MoEPolicy, found: Sequence[_Plain], task: int | None) -> None:
    """Write the weights of plain layers, of the online networks and of those that lag behind."""
    ours, theirs = networks_of(new), networks_of(old)
    behind = [_lagging(theirs, plain.network) for plain in found]
    lagging = [None if each is None else _plain(each, task) for each in behind]
    plains = [each.modules() for each in (*found, *lagging) if each is not None]
    map_ = LayerMap(new, old, *plains)
    for mine, plain, other in zip(ours.networks(), found, lagging, strict=True):
        linear = next(m for m in plain.modules().modules() if isinstance(m, nn.Linear))
        width = linear.in_features if mine.memory is None else None
        at = columns(new, mine, old, plain.network, width)
        _map(map_, mine, plain, at)
        map_.memory(mine.memory, plain.network.memory, at)
        target = _lagging(ours, mine)
        if target is not None and other is not None:
            _map(map_, target, other, at)
    if (misfit := map_.loose(ours, theirs)) is not None:
        raise ValueError(
            f"gSDE's noise, {misfit}, is for a latent of another width than the dense "
            "model has: fit one with `distill`, which begins with fresh noise"
        )
    map_.write_weights()


def _map(map_: LayerMap, new: Network, plain: _Plain, at: th.Tensor | None) -> None:
    map_.extractor(new.extractor, plain.network.extractor)
    hidden, heads = dense_leaves(map_.new, new)
    at = None if new.memory is not None else at
    map_.in_order(hidden, map_.old.leaves(plain.hidden), at)
    first = None if any(leaf.is_linear for leaf in hidden) else at
    for leaf, modules in zip(heads, plain.heads, strict=True):
        map_.in_order([leaf], map_.old.leaves(modules), first)


def _lagging(networks: Networks, network: Network) -> Network | None:
    """Return the target network that follows an online one, if any does."""
    hidden = networks.follower(network.hidden)
    if hidden is None:
        return None
    heads = tuple(networks.follower(head) or head for head in network.heads)
    extractor = networks.follower(network.extractor) or network.extractor
    return Network(network.tower, extractor, hidden, heads)


def _plain(network: Network, task: int | None) -> _Plain:
    """Return a network as plain layers, its heads apart from hidden layers if SB3's are."""
    hidden = plain_modules([network.hidden], task)
    heads = [plain_modules([head], task) for head in network.heads]
    if heads and not any(heads):  # whole networks end in all heads together
        *hidden, last = hidden
        assert isinstance(last, nn.Linear)
        heads = [[_rows_of(last, head)] for head in network.heads]
    elif len(heads) == 1 and not hidden and isinstance(heads[0][-1], nn.Linear):
        # Whole networks stand where the head did, or there is nothing but the head.
        *hidden, last = heads[0]
        heads = [[last]]
    elif hidden and isinstance(hidden[-1], nn.Linear) and heads:
        *hidden, last = hidden
        heads = [[in_one(last, head[0]), *head[1:]] for head in heads]
    return _Plain(network, hidden, heads)


@th.no_grad()
def _rows_of(linear: nn.Linear, head: nn.Module) -> nn.Linear:
    """Return a linear layer for the outputs that a head takes."""
    assert isinstance(head, Columns)
    one = copy.deepcopy(linear)
    one.out_features = head.stop - head.start
    for parameter in one.parameters():
        parameter.data = parameter.data[head.start : head.stop].clone()
    return one


def plain_modules(modules: Sequence[nn.Module], task: int | None) -> list[nn.Module]:
    """Return plain layers that do what some modules do, no linear layer behind another.

    :param modules: of a network, one behind the other
    :param task: the task whose samples are meant; None: any
    :raises ValueError: if there are none
    """
    found: list[nn.Module] = []
    for part in parts_of(modules):
        if isinstance(part, Columns):
            continue
        for layer in _layer(part, task) if isinstance(part, MoEBlock) else [copy.deepcopy(part)]:
            if isinstance(layer, nn.Linear) and found and isinstance(found[-1], nn.Linear):
                layer = in_one(found.pop(), layer)
            found.append(layer)
    return found


def _layer(block: MoEBlock, task: int | None) -> list[nn.Module]:
    """Return a block of experts as plain layers.

    :raises ValueError: if there are none
    """
    layer, experts = block.layer, block.layer.experts
    gates = constant_gates(layer, task) or []
    used = {k: gate for k, gate in enumerate(gates) if gate}
    first, *others = made = [flat(experts.expert(k)) for k in used] or [[]]
    is_one = [*used.values()] == [1.0]
    is_linear = bool(first) and type(first[-1]) is nn.Linear and (not others or len(first) == 1)
    if block.tokens != "sample" or experts.combination or not (is_one or is_linear):
        raise ValueError(
            "`model` must have mixtures that are one network to be dense: one expert, that of a "
            "task, or linear ones under gates that are the same for every sample, and no `tokens` "
            f"or `combine`; got `router`={layer.name!r} with {layer.num_experts} experts of "
            f"{len(first)} layers and `tokens`={block.tokens!r}: `distill` fits a dense one"
        )
    if is_one:
        return first
    with th.no_grad():
        for name, parameter in first[-1].named_parameters():
            weights = [modules[-1].get_parameter(name) for modules in made]
            gated = [each * gate for each, gate in zip(weights, used.values(), strict=True)]
            parameter.copy_(th.stack(gated).sum(0))
    return first


@th.no_grad()
def in_one(first: nn.Module, second: nn.Module) -> nn.Linear:
    """Return one linear layer for two that stand one behind the other.

    :param first: (I to H)
    :param second: (H to O)
    """
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    biases: list[th.Tensor | None] = [first.bias, second.bias]
    has_bias = any(bias is not None for bias in biases)
    one = nn.Linear(first.in_features, second.out_features, bias=has_bias).to(first.weight)
    one.weight.copy_(second.weight @ first.weight)
    if has_bias:
        one.bias.copy_(second(first(first.weight.new_zeros(first.in_features))))
    return one
