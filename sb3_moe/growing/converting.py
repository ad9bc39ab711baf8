"""From a dense model to one with experts that does the same, and back.

Shapes: O outputs, I inputs, H hidden units, B observations, A action dimensions.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_moe.growing.copy_map import CopyMap, encodes, leaves_of, parts_of, tensors_of
from sb3_moe.growing.gates import constant_gates, take_copies
from sb3_moe.growing.models import (
    NOT_SB3S,
    WHY_NOT,
    as_sb3s,
    build_dense,
    build_like,
    changed_kwargs,
    check_defaults,
    check_same,
    finish,
    moe_class,
    raw_outputs,
    sampled,
)
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, whole
from sb3_moe.layers.stacked import flat
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_network import Columns
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, kind_of, networks_of
from sb3_moe.policies.of_model import model_of_sb3, policy_of
from sb3_moe.policies.options import per_network
from sb3_moe.vec_env.task_ids import TASK_KEY, has_task_key, one_hot_behind

# Options whose function no dense layer of SB3's has.
_NOT_DENSE = ("tokens", "combine", "block", "task_embedding", "match_scale", "action_dims")


def upcycle(
    model: BaseAlgorithm,
    *,
    env: Any = None,
    num_tasks: int | None = None,
    perturb: float = 0.1,
    **options: Any,
) -> Any:
    """Return a model with experts that does what a dense one does, to go on training.

    Each expert begins as the dense layers it stands for, and experts part as their gates differ by
    row; under gates that are the same for all rows their last layers start apart, so that it
    cancels. Arguments, counts, target networks, the optimizers' averages (times the gate, or its
    square) and, where the space stays, the replay buffer go along. The given model stays as it is.

    >>> from stable_baselines3 import PPO
    >>> dense = PPO("MlpPolicy", "CartPole-v1", n_steps=64)
    >>> model = upcycle(dense, placement="middle", num_experts=4)
    >>> sorted(model.policy.moe_layers())
    ['pi.middle', 'vf.middle']

    :param model: dense, SB3's or ours, of any algorithm with MoE policies
    :param env: of the new model; None: the old one's. Its observations may be a Dict with a task id
        that those of the old one don't have: nothing but routers looks at it at first
    :param num_tasks: length of the one-hot task id that observations end in, if they are no dicts
    :param perturb: how far experts under constant gates start apart, relative to last weights
    :param options: of :class:`sb3_moe.policies.options.MoEOptions`, each a value or a dict by
        network
    :raises TypeError: if the policy is of no known class, or an option is unknown
    :raises ValueError: if a value is not valid, spaces differ, or the function can't be kept
    """
    not_negative("perturb", perturb)
    model_of_sb3(model)
    old: Any = model.policy
    if isinstance(old, MoEPolicy):
        if layers := sorted(old.moe_layers()):
            raise ValueError(f"`model` must be dense, got one with experts: {layers}")
        check_defaults(old.moe, NOT_SB3S, WHY_NOT)
        options = {"task_gradients": old.moe_options["task_gradients"]} | options
    venv = model.get_env() if env is None else model._wrap_env(env, 0)
    if venv is not None:
        _check_env(model, venv)
    space = (model if venv is None else venv).observation_space
    policy_class = moe_class(model, space)
    asked = per_network(options, policy_class.network_names)
    check_defaults(asked, _NOT_DENSE, "a dense model has nothing that could begin as that")
    kwargs = _policy_kwargs(model, old, num_tasks) | options
    new = build_like(model, policy_class, kwargs, venv)
    totals = {layer: take_copies(layer) for layer in new.policy.moe_layers().values()}
    map_ = CopyMap(new.policy, old)
    with map_.made():
        _map(map_, new.policy, old, totals, perturb)
    ours, theirs = networks_of(new.policy), networks_of(old)
    map_.write_weights(ours, theirs)
    pairs = [*zip(ours.every_optimizer(), theirs.every_optimizer(), strict=True)]
    states = {p: s for _, each in pairs for p, s in each.state.items() if s}
    for mine, _ in pairs:
        mine.state.update(map_.states(states, mine))
    obs = sampled(model.observation_space)
    check_same(new.policy, old, join_task(obs, new.observation_space), obs)
    return finish(new, model, venv)


def _policy_kwargs(model: BaseAlgorithm, old: Any, num_tasks: int | None) -> dict[str, Any]:
    """Return the arguments of the dense policy, with an extractor that tells the task id apart."""
    kind, kwargs = old.features_extractor_class, dict(old.features_extractor_kwargs)
    extractor = networks_of(old).extractors()["features"]
    if kind in (FlattenExtractor, CombinedExtractor) and not tensors_of(extractor):
        kind, kwargs = TaskExtractor, {"encoder": "flat"}
    kwargs.pop("raw", None)
    if num_tasks is not None:
        kwargs["num_tasks"] = num_tasks
    return changed_kwargs(model, old.net_arch, kind, kwargs)


def _map(map_: CopyMap, new: Any, old: Any, totals: dict[MoELayer, float], perturb: float) -> None:
    """Say where all that a dense policy has goes in one with experts."""
    cure = "let the head stay dense (`placement`, `head_router`)"
    for mine, other, at in map_.networks(new, old, cure):
        convs = other.extractor.get_submodule("convs").children() if encodes(mine) else ()
        hidden = leaves_of(*convs, other.hidden)
        heads = leaves_of(*other.heads)
        linears = sum(isinstance(layer, nn.Linear) for layer in hidden)
        place = new.moe[kind_of(mine.name)].place
        depth = linears if heads else linears - 1
        number = depth + place.whole if place.hidden == "one" else 1
        experts = _ExpertsFromDense(map_, totals, max(number, 1), perturb)
        if place.whole:
            experts.chain([mine.hidden, *mine.heads], [*hidden, *_side_by_side(heads)], at)
            continue
        experts.chain([mine.hidden], hidden, at)
        for module, head in zip(mine.heads, heads, strict=True):
            experts.chain([module], [head], None if linears else at)


class _ExpertsFromDense:
    """Says where the numbers of a network with experts come from.

    :param map_: what it is written into
    :param totals: what the gates of each layer sum to
    :param number: how many dense linear layers an expert stands for
    :param perturb: how far experts under constant gates start apart, in their last layer, as a
        share of the size of its weights
    """

    def __init__(
        self, map_: CopyMap, totals: dict[MoELayer, float], number: int, perturb: float
    ) -> None:
        self.map, self.totals, self.number, self.perturb = map_, totals, number, perturb

    def chain(
        self, new: Sequence[nn.Module], old: Sequence[nn.Module], at: th.Tensor | None
    ) -> None:
        """Map modules that run one behind the other.

        :param old: dense layers
        :param at: where the first finds each of its old inputs; None: where they were
        :raises ValueError: if they don't fit together
        """
        rest = list(old)
        for part in parts_of(*new):
            if isinstance(part, MoELayer):
                experts = [leaves_of(part.experts.expert(k)) for k in range(part.num_experts)]
                count, more = self._span(experts[0], rest)
                self._experts(part, experts, rest[:count], more, at)
                rest, at = rest[count:], None
            elif tensors_of(part):
                at = self.map.in_order([part], [rest.pop(0)], at)

    def _span(self, expert: Sequence[nn.Module], rest: Sequence[nn.Module]) -> tuple[int, bool]:
        """Return how many dense layers an expert stands for, and if it has a linear one more.

        :raises ValueError: if it has still more, or fewer
        """
        theirs = sum(isinstance(layer, nn.Linear) for layer in expert)
        if theirs - self.number not in (0, 1):
            raise ValueError(
                "`expert` must have as many linear layers as the dense layers it stands for, "
                f"{self.number}, or one more, got {theirs}"
            )
        linears = [i for i, layer in enumerate(rest) if isinstance(layer, nn.Linear)]
        count, more = linears[self.number - 1] + 1, theirs > self.number
        # The activation is in the experts too, and may hold numbers.
        return (count + len(expert) - theirs if more and self.number == 1 else count), more

    def _experts(
        self,
        layer: MoELayer,
        experts: Sequence[Sequence[nn.Module]],
        old: Sequence[nn.Module],
        more: bool,
        at: th.Tensor | None,
    ) -> None:
        """Map every expert of a layer to the dense layers that it stands for.

        :param more: whether experts have one linear layer more, which hands on what it is given
        """
        number, total = layer.num_experts, self.totals[layer]
        for *first, last in experts:
            columns = self.map.in_order(first, old if more else old[:-1], at, gate=1 / number)
            if more:
                units = th.arange(len(old[0].get_parameter("weight")))
                for parameter in last.parameters():
                    self.map.fill(parameter, 0.0)
                self.map.fill(last.get_parameter("weight")[units, units], 1 / total)
            else:
                self.map.layer(last, old[-1], columns, scale=1 / total, gate=total / number)
        if layer.sees == "nothing" and number > 1:
            like = old[-1].get_parameter("weight")
            # Of units that all experts share: those of a wider expert are its own.
            shared = len(old[0].get_parameter("weight")) if more else like.shape[1]
            lasts = [expert[-1].get_parameter("weight")[:, :shared] for expert in experts]
            # An identity has one 1 in each row.
            size = shared**-0.5 if more else self.map.size_of(like)
            self.map.move_apart(lasts, [1.0] * number, self.perturb * size)


def _side_by_side(heads: Sequence[nn.Module]) -> list[nn.Module]:
    """Return heads that read the same as one layer."""
    one = copy.deepcopy([*heads[:1]])
    for name, parameter in one[0].named_parameters() if one else ():
        parameter.data = th.cat([head.get_parameter(name).data for head in heads])
    return one


def _check_env(model: BaseAlgorithm, env: Any) -> None:
    """Raise ValueError unless a model can go on in an environment, where a task id may join."""
    old, new = model.observation_space, env.observation_space
    seen = new
    if isinstance(new, spaces.Dict) and has_task_key(new):
        rest = {key: each for key, each in new.spaces.items() if key != TASK_KEY}
        is_dict = isinstance(old, spaces.Dict)
        seen = spaces.Dict(rest) if is_dict or len(rest) != 1 else next(iter(rest.values()))
    if old not in (new, seen) or env.action_space != model.action_space:
        raise ValueError(
            f"`env` must have the model's spaces, {old} (or a Dict of that and a Discrete "
            f"{TASK_KEY!r}) and {model.action_space}, got {new} and {env.action_space}"
        )


def join_task(obs: Any, space: spaces.Space[Any]) -> Any:
    """Return observations as those of a space, with task ids in turn where it has them anew.

    :param obs: a batch
    :param space: that of the observations, or that and a task id
    """
    if not isinstance(space, spaces.Dict) or (isinstance(obs, dict) and obs.keys() == space.keys()):
        return obs
    parts = obs if isinstance(obs, dict) else dict.fromkeys(space.spaces, obs)
    rows = len(next(iter(parts.values())))
    return {**parts, TASK_KEY: np.arange(rows) % int(space[TASK_KEY].n)}  # type: ignore[attr-defined]  # Discrete


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
        raise ValueError(f"`task` must be None, or in [0, {num_tasks}), got {task!r}")
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
    map_ = CopyMap(new, old, *(plain.modules() for plain in found))
    cure = "fit one with `distill`, which begins with fresh noise"
    with map_.made():
        for (mine, _, at), plain in zip(map_.networks(new, old, cure), found, strict=True):
            heads = leaves_of(*mine.heads)
            first = map_.in_order(leaves_of(mine.hidden), leaves_of(*plain.hidden), at)
            for head, modules in zip(heads, plain.heads, strict=True):
                map_.in_order([head], leaves_of(*modules), first)
    lagging: dict[th.Tensor, th.Tensor] = {}
    for plain in found:
        # The target network that follows this one, or itself.
        online = (plain.network.hidden, *plain.network.heads)
        hidden, *heads = (theirs.follower(each) or each for each in online)
        target = plain.network._replace(hidden=hidden, heads=tuple(heads))
        behind = tensors_of(_plain(target, task).modules())
        lagging |= zip(tensors_of(plain.modules()), behind, strict=True)
    map_.write_weights(networks_of(new), theirs, lagging)


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
    one = nn.Linear(first.in_features, second.out_features).to(first.weight)
    one.weight.copy_(second.weight @ first.weight)
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
    # What outputs for single observations don't show is copied: all but hidden layers and heads.
    map_ = CopyMap(new.policy, old)
    with map_.made():
        for _ in map_.networks(new.policy, old):
            pass
    map_.write_weights(networks_of(new.policy), networks_of(old))
    ours, theirs = (policy.obs_to_tensor(obs)[0] for policy in (new.policy, old))
    remains = _fit(new.policy, old, ours, theirs, steps, learning_rate)
    for online, target in networks_of(new.policy).targets().items():
        target.load_state_dict(online.state_dict())
    return Distilled(as_sb3s(new, model), remains)


def _fit(
    new: Any, old: Any, obs: Any, old_obs: Any, steps: int, learning_rate: float
) -> dict[str, float]:
    with th.no_grad():
        # RecurrentPPO's `critic` stands before a value network, and knows no actions.
        is_asked = networks_of(old).critic_optimizer() is not None
        actions = old._predict(old_obs, deterministic=True) if is_asked else None
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
