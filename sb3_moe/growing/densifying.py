"""From a model with experts to SB3's own dense model that does the same, or nearly.

Shapes: O outputs, I inputs, H hidden units, B observations, A action dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_moe.growing.copy_map import tensors_of
from sb3_moe.growing.gates import constant_gates
from sb3_moe.growing.layer_maps import LayerMap, leaves_of, parts_of
from sb3_moe.growing.models import (
    NOT_SB3S,
    WHY_NOT,
    as_sb3s,
    build_dense,
    check_defaults,
    raw_outputs,
)
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import whole
from sb3_moe.layers.stacked import flat
from sb3_moe.policies.moe_network import Columns
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, Networks, kind_of, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.task_ids import one_hot_behind


class _Plain(NamedTuple):
    """A network as plain layers: hidden ones, and each head's."""

    network: Network
    hidden: list[nn.Module]
    heads: list[list[nn.Module]]

    def modules(self) -> nn.ModuleList:
        """Return all of them, in one."""
        return nn.ModuleList([*self.hidden, *(each for head in self.heads for each in head)])


def to_dense(model: BaseAlgorithm, task: int | None = None) -> Any:
    """Return SB3's own dense model that does what one with experts does.

    There is one where the mixture is one network: one expert, the task router with its task,
    uniform gates over linear experts; :func:`sb3_moe.growing.distill` fits one to any other
    mixture. It needs nothing of this package to be loaded. Its optimizers start anew. The given
    model stays as it is.

    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"num_experts": 1})
    >>> type(to_dense(model).policy).__name__
    'ActorCriticPolicy'

    :param model: with one of our policies
    :param task: the task whose observations it is for, where experts or heads go by that
    :raises TypeError: if the policy is not ours
    :raises ValueError: if the mixture is not one network, or images are encoded
    """
    old = policy_of(model)
    goes_by_task = any(layer.sees == "task" for layer in old.moe_layers().values())
    extractor = networks_of(old).extractors()["features"]
    num_tasks = one_hot_behind(extractor) if goes_by_task else 0
    if task is not None and task not in range(num_tasks):
        raise ValueError(
            f"`task` must be None, or one of the {num_tasks} that experts go by, got {task!r}"
        )
    check_defaults(old.moe, (*NOT_SB3S, "tokens"), WHY_NOT)
    found = [_plain(network, task) for network in networks_of(old).networks()]
    new = build_dense(model, old, _net_arch(old, found))
    _write(new.policy, old, found, task)
    return as_sb3s(new, model)


def _net_arch(old: MoEPolicy, found: Sequence[_Plain]) -> Any:
    widths: dict[str, list[int]] = {}
    for plain in found:
        own = [m.out_features for m in plain.hidden if isinstance(m, nn.Linear)]
        widths[kind_of(plain.network.name)] = own if plain.heads else own[:-1]
    return widths if len(old.network_names) > 1 else widths[old.network_names[0]]


def _write(new: Any, old: MoEPolicy, found: Sequence[_Plain], task: int | None) -> None:
    """Write the weights of plain layers, of the online networks and of those that lag behind."""
    theirs = networks_of(old)
    map_ = LayerMap(new, old, *(plain.modules() for plain in found))
    cure = "fit one with `distill`, which begins with fresh noise"
    with map_.made():
        for (mine, _, at), plain in zip(map_.networks(new, old, cure), found, strict=True):
            heads = leaves_of(*mine.heads)
            first = map_.in_order(leaves_of(mine.hidden), leaves_of(*plain.hidden), at)
            for head, modules in zip(heads, plain.heads, strict=True):
                map_.in_order([head], leaves_of(*modules), first)
    lagging: dict[th.Tensor, th.Tensor] = {}
    for plain in found:
        if (target := _lagging(theirs, plain.network)) is not None:
            behind = _plain(target, task).modules()
            lagging |= dict(zip(tensors_of(plain.modules()), tensors_of(behind), strict=True))
    map_.write_weights(networks_of(new), theirs, lagging)


def _lagging(networks: Networks, network: Network) -> Network | None:
    """Return the target network that follows an online one, if any does."""
    hidden = networks.follower(network.hidden)
    if hidden is None:
        return None
    heads = tuple(networks.follower(head) or head for head in network.heads)
    return network._replace(hidden=hidden, heads=heads)


def _plain(network: Network, task: int | None) -> _Plain:
    """Return a network as plain layers; a head begins with the last linear one before it."""
    if not network.heads:
        return _Plain(network, plain_modules([network.hidden], task), [])
    chains = [plain_modules([network.hidden, head], task) for head in network.heads]
    numbered = [[i for i, m in enumerate(chain) if isinstance(m, nn.Linear)] for chain in chains]
    heads = [chain[linears[-1] :] for chain, linears in zip(chains, numbered, strict=True)]
    return _Plain(network, chains[0][: numbered[0][-1]], heads)


@th.no_grad()
def _rows_of(linear: nn.Linear, columns: Columns) -> nn.Linear:
    """Return a linear layer for some outputs of another."""
    one = copy.deepcopy(linear)
    one.out_features = columns.stop - columns.start
    for parameter in one.parameters():
        parameter.data = parameter.data[columns.start : columns.stop].clone()
    return one


def plain_modules(modules: Sequence[nn.Module], task: int | None) -> list[nn.Module]:
    """Return plain layers that do what some modules do, no linear layer behind another.

    :param modules: of a network, one behind the other
    :param task: the task whose samples are meant; None: any
    :raises ValueError: if there are none
    """
    found: list[nn.Module] = []
    for part in parts_of(*modules):
        if isinstance(part, Columns):
            found.append(_rows_of(found.pop(), part))  # type: ignore[arg-type]  # whole networks end so
            continue
        for layer in _layer(part, task) if isinstance(part, MoELayer) else [copy.deepcopy(part)]:
            if isinstance(layer, nn.Linear) and found and isinstance(found[-1], nn.Linear):
                layer = in_one(found.pop(), layer)
            found.append(layer)
    return found


def _layer(layer: MoELayer, task: int | None) -> list[nn.Module]:
    """Return a mixture as plain layers.

    :raises ValueError: if there are none
    """
    experts = layer.experts
    gates = constant_gates(layer, task) or []
    used = {k: gate for k, gate in enumerate(gates) if gate}
    first, *others = made = [flat(experts.expert(k)) for k in used] or [[]]
    is_one = [*used.values()] == [1.0]
    is_linear = bool(first) and type(first[-1]) is nn.Linear and (not others or len(first) == 1)
    if experts.combination or not (is_one or is_linear):
        raise ValueError(
            "`model` must have mixtures that are one network to be dense: one expert, that of a "
            "task, or linear ones under gates that are the same for every sample, and no "
            f"`combine`; got `router`={layer.name!r} with {layer.num_experts} experts of "
            f"{len(first)} layers: `distill` fits a dense one"
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


# Where there is no equal.


class Distilled(NamedTuple):
    """A dense model that was fitted to one with experts.

    :param model: SB3's own
    :param remains: how far its outputs are from the other's on the observations, by network and
        head
        (``"pi.0"``): root mean square of the difference, as a share of that of the outputs around
        their mean
    """

    model: Any
    remains: dict[str, float]


def distill(
    model: BaseAlgorithm, obs: Any, *, steps: int = 1000, learning_rate: float = 1e-3
) -> Distilled:
    """Fit SB3's own dense model to what one with experts does on observations.

    Its layers are as wide as those of ``net_arch``. Nothing is played and no reward is seen: it
    learns every network's raw outputs, by Adam on all observations at once. Extractors and LSTMs
    are copied, and how far actions are spread.

    :param model: with one of our policies
    :param obs: a batch of observations, as environments give them
    :param steps: of Adam
    :param learning_rate: of Adam
    :raises TypeError: if the policy is not ours
    :raises ValueError: if images are encoded, or there are no steps
    """
    whole("steps", steps)
    old: Any = policy_of(model)
    check_defaults(old.moe, ("ent_coef_per_task",), WHY_NOT)
    new = build_dense(model, old, copy.deepcopy(old.net_arch))
    _take_over(new.policy, old)
    ours, theirs = (policy.obs_to_tensor(obs)[0] for policy in (new.policy, old))
    remains = _fit(new.policy, old, ours, theirs, steps, learning_rate)
    for online, target in networks_of(new.policy).targets().items():
        target.load_state_dict(online.state_dict())
    return Distilled(as_sb3s(new, model), remains)


def _take_over(new: Any, old: Any) -> None:
    """Copy what outputs for single observations don't show: all but hidden layers and heads.

    That is how far actions are spread, and what an LSTM makes of the step before.
    """
    map_ = LayerMap(new, old)
    with map_.made():
        for _ in map_.networks(new, old):
            pass
    map_.write_weights(networks_of(new), networks_of(old))


def _fit(
    new: Any, old: Any, obs: Any, old_obs: Any, steps: int, learning_rate: float
) -> dict[str, float]:
    actions = _own_actions(old, old_obs)
    with th.no_grad():
        wanted = raw_outputs(old, old_obs, actions)
    spread = {name: (y - y.mean(0)).square().mean() + 1e-12 for name, y in wanted.items()}
    networks = nn.ModuleList(m for own in networks_of(new).modules().values() for m in own)
    optimizer = th.optim.Adam(networks.parameters(), lr=learning_rate)
    for _ in range(steps):
        found = raw_outputs(new, obs, actions)
        losses = [(found[n] - y).square().mean() / spread[n] for n, y in wanted.items()]
        optimizer.zero_grad()
        th.stack(losses).sum().backward()
        optimizer.step()
    new.zero_grad()
    with th.no_grad():
        found = raw_outputs(new, obs, actions)
    return {
        name: ((found[name] - y).square().mean() / spread[name]).sqrt().item()
        for name, y in wanted.items()
    }


@th.no_grad()
def _own_actions(policy: Any, obs: Any) -> th.Tensor | None:
    """Return the actions that critics of actions are asked about."""
    # RecurrentPPO's `critic` stands before a value network, and knows no actions.
    if networks_of(policy).critic_optimizer() is None:
        return None
    actions_BA: th.Tensor = policy._predict(obs, deterministic=True)
    return actions_BA
