"""Convert a dense model to one with experts that computes the same, and back.

Shapes: O outputs, I inputs, H hidden units, B observations, A action dimensions.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_moe.growing.copy_map import CopyMap, encodes, leaves_of, parts_of
from sb3_moe.growing.gates import constant_gates, take_copies
from sb3_moe.growing.models import (
    NO_DENSE_COUNTERPART,
    NO_DENSE_REASON,
    as_sb3s,
    build_dense,
    build_like,
    changed_kwargs,
    check_defaults,
    check_same,
    finish,
    moe_class,
    raw_outputs,
    refuse_masks,
    sampled,
)
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, whole
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.layers.shares import tensors_of
from sb3_moe.layers.stacked import flat
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_network import Columns
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, kind_of, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.options import per_network
from sb3_moe.vec_env.task_ids import TASK_KEY, has_task_key, one_hot_length

# Options that `upcycle` refuses: no dense layer of SB3 computes the same.
_NOT_DENSE = ("tokens", "combine", "block", "task_embedding", "match_scale", "action_dims")


def upcycle(
    model: BaseAlgorithm,
    *,
    env: Any = None,
    num_tasks: int | None = None,
    perturb: float = 0.1,
    **options: Any,
) -> Any:
    """Return a model with experts that computes what a dense model does and can go on training.

    Each expert starts as a copy of the dense layers that it replaces. The experts diverge because
    their gates differ from row to row. Where the gates are the same for all rows, noise that
    cancels in their mixture is added to the experts' last layers. The new model takes over
    arguments, step counts, target networks, the optimizers' running averages (times the gate, or
    its square) and, if observations and ``n_envs`` stay the same, the replay buffer. The given
    model stays as it is.

    >>> from stable_baselines3 import PPO
    >>> dense = PPO("MlpPolicy", "CartPole-v1", n_steps=64)
    >>> model = upcycle(dense, placement="middle", num_experts=4)
    >>> sorted(model.policy.moe_layers())
    ['pi.middle', 'vf.middle']

    :param model: a dense model, SB3's or ours, of any algorithm with MoE policies
    :param env: the new model's environment; None: the old model's. Its observations may be a Dict
        that adds a task id to the old observations; at first only routers depend on it
    :param num_tasks: length of the one-hot task id at the end of observations, if they are no Dict
    :param perturb: size of the noise on experts under constant gates, relative to the weights of
        their last layers
    :param options: of :class:`sb3_moe.policies.options.MoEOptions`, each a value or a dict by
        network
    :raises TypeError: if the policy is of no known class, or an option is unknown
    :raises ValueError: if a value is not valid, the spaces differ, or the new model would not
        compute the same
    """
    not_negative("perturb", perturb)
    old: Any = model.policy
    refuse_masks(old)
    if isinstance(old, MoEPolicy):
        if layers := sorted(old.moe_layers()):
            raise ValueError(f"`model` must be dense, got one with experts: {layers}")
        check_defaults(old.moe, NO_DENSE_COUNTERPART, NO_DENSE_REASON)
        options = {"task_gradients": old.moe_options["task_gradients"]} | options
    venv = model.get_env() if env is None else model._wrap_env(env, 0)
    if venv is not None:
        _check_env(model, venv)
    space = (model if venv is None else venv).observation_space
    policy_class = moe_class(model, space)
    asked = per_network(options, policy_class.network_names)
    check_defaults(asked, _NOT_DENSE, "a dense model has nothing that could begin as that")
    if any(each.routes_by_belief for each in asked.values()):
        raise ValueError("`router` must be another: dense models have no belief, got 'belief'")
    kwargs = _policy_kwargs(model, old, num_tasks) | options
    new = build_like(model, policy_class, kwargs, venv)
    _take_over(new.policy, old, perturb)
    obs = sampled(model.observation_space)
    check_same(new.policy, old, join_task(obs, new.observation_space), obs)
    return finish(new, model, venv)


def _take_over(new: MoEPolicy, old: Any, perturb: float) -> None:
    """Give the new policy the dense one's weights and its optimizers' running averages."""
    totals = {layer: take_copies(layer) for layer in new.moe_layers().values()}
    map_ = CopyMap(new, old)
    with map_.shown():
        _map(map_, new, totals, perturb)
    map_.write_weights()
    states = {p: s for each in map_.theirs.every_optimizer() for p, s in each.state.items() if s}
    for mine in map_.ours.every_optimizer():
        mine.state.update(map_.states(states, mine))


def _policy_kwargs(model: BaseAlgorithm, old: Any, num_tasks: int | None) -> dict[str, Any]:
    """Return the dense policy's arguments, with an extractor that keeps the task id apart."""
    kind = old.features_extractor_class
    kwargs = dict(old.features_extractor_kwargs)
    extractor = networks_of(old).extractors()["features"]
    if kind in (FlattenExtractor, CombinedExtractor) and not tensors_of(extractor):
        kind = TaskExtractor
        kwargs = {"encoder": "flat"}
    kwargs.pop("raw", None)
    if num_tasks is not None:
        kwargs["num_tasks"] = num_tasks
    return changed_kwargs(model, old.net_arch, kind, kwargs)


def _map(map_: CopyMap, new: Any, totals: dict[MoELayer, float], perturb: float) -> None:
    """Map the tensors of a dense policy to those of a policy with experts."""
    cure = "let the head stay dense (`placement`, `head_router`)"
    for mine, other, at in map_.networks(cure):
        convs = other.extractor.get_submodule("convs").children() if encodes(mine) else ()
        hidden = leaves_of(*convs, other.hidden)
        heads = leaves_of(*other.heads)
        linears = sum(isinstance(layer, nn.Linear) for layer in hidden)
        place = new.moe[kind_of(mine.name)].place
        depth = linears if heads else linears - 1
        number = depth + place.whole if place.hidden == "one" else 1
        experts = _ExpertsFromDense(map_, totals, max(number, 1), perturb)
        if place.whole:
            experts.chain(mine.layers, [*hidden, *_side_by_side(heads)], at)
            continue
        experts.chain([mine.hidden], hidden, at)
        for module, head in zip(mine.heads, heads, strict=True):
            experts.chain([module], [head], None if linears else at)


@dataclass
class _ExpertsFromDense:
    """Maps the layers of a dense network to those of a network with experts.

    :param map: the map that gets the entries
    :param totals: for each layer of experts, what the gates of a token sum to
    :param number: how many dense linear layers an expert of the next mixture replaces
    :param perturb: size of the noise on the last layers of experts under constant gates, relative
        to the size of their weights
    """

    map: CopyMap
    totals: dict[MoELayer, float]
    number: int
    perturb: float

    def chain(self, new: Sequence[nn.Module], old: Sequence[nn.Module], at: Tensor | None) -> None:
        """Map modules that run one after the other.

        :param new: plain modules and layers of experts
        :param old: the dense layers that they replace
        :param at: the column of each old input in the first new layer; None: the same as before
        :raises ValueError: if they don't fit together
        """
        rest = list(old)
        for part in parts_of(*new):
            if isinstance(part, MoELayer):
                experts = [leaves_of(part.experts.expert(k)) for k in range(part.num_experts)]
                count, more = self._span(experts[0], rest)
                self._experts(part, experts, rest[:count], more, at)
                rest = rest[count:]
                self.number = 1  # the next is one of heads
                at = None
            elif tensors_of(part):
                at = self.map.in_order([part], [rest.pop(0)], at)

    def _span(self, expert: Sequence[nn.Module], rest: Sequence[nn.Module]) -> tuple[int, bool]:
        """Return how many dense layers an expert replaces, and whether it has a linear layer more.

        :raises ValueError: if it has more than one more, or fewer
        """
        theirs = sum(isinstance(layer, nn.Linear) for layer in expert)
        if theirs - self.number not in (0, 1):
            raise ValueError(
                "`expert` must have as many linear layers as the dense layers it stands for, "
                f"{self.number}, or one more, got {theirs}"
            )
        linears = [i for i, layer in enumerate(rest) if isinstance(layer, nn.Linear)]
        count = linears[self.number - 1] + 1
        more = theirs > self.number
        # With a linear layer more, experts also hold the activation, which may have parameters.
        return (count + len(expert) - theirs if more and self.number == 1 else count), more

    def _experts(
        self,
        layer: MoELayer,
        experts: Sequence[Sequence[nn.Module]],
        old: Sequence[nn.Module],
        more: bool,
        at: Tensor | None,
    ) -> None:
        """Map every expert of a layer to the dense layers that it replaces.

        :param more: whether experts have one linear layer more, which starts as an identity
        """
        number = layer.num_experts
        total = self.totals[layer]
        same = old if more else old[:-1]
        for *first, last in experts:
            columns = self.map.in_order(first, same, at, gate=1 / number)
            if more:
                units = th.arange(len(old[0].get_parameter("weight")))
                for parameter in last.parameters():
                    self.map.fill(parameter, 0.0)
                self.map.fill(last.get_parameter("weight")[units, units], 1 / total)
            else:
                self.map.layer(last, old[-1], columns, scale=1 / total, gate=total / number)
        if layer.sees == "nothing" and number > 1:
            like = old[-1].get_parameter("weight")
            # Noise cancels only on units that are equal in all experts. The extra units of wider
            # experts are not.
            shared = len(old[0].get_parameter("weight")) if more else like.shape[1]
            lasts = [expert[-1].get_parameter("weight")[:, :shared] for expert in experts]
            # The root mean square of an identity, which has one 1 in each row.
            size = shared**-0.5 if more else self.map.size_of(like)
            self.map.move_apart(lasts, [1.0] * number, self.perturb * size)


def _side_by_side(heads: Sequence[nn.Module]) -> list[nn.Module]:
    """Return heads that have the same input as one layer, in a list that is empty without heads."""
    one = copy.deepcopy([*heads[:1]])
    for name, parameter in one[0].named_parameters() if one else ():
        parameter.data = th.cat([head.get_parameter(name).data for head in heads])
    return one


def _check_env(model: BaseAlgorithm, env: Any) -> None:
    """Raise ValueError unless an environment has a model's spaces; it may add a task id."""
    old = model.observation_space
    new = env.observation_space
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


def join_task(obs: Any, space: spaces.Space) -> Any:
    """Return observations that fit a space, with task ids 0, 1, ... in turn if it adds a task id.

    :param obs: a batch of observations
    :param space: the space of these observations, or a Dict that adds a task id to it
    """
    if not isinstance(space, spaces.Dict) or (isinstance(obs, dict) and obs.keys() == space.keys()):
        return obs
    parts = obs if isinstance(obs, dict) else dict.fromkeys(space.spaces, obs)
    rows = len(next(iter(parts.values())))
    return {**parts, TASK_KEY: np.arange(rows) % int(space[TASK_KEY].n)}  # type: ignore[attr-defined]  # Discrete


def to_dense(model: BaseAlgorithm, task: int | None = None) -> Any:
    """Return a dense model of SB3 that computes what a model with experts does.

    There is such a model if every mixture equals one network: it has one expert, the task router
    picks the expert of ``task``, or its experts are linear and have the same gates for every sample
    (of ``task``). :func:`sb3_moe.growing.distill` fits a dense model to any other mixture. The
    dense model can be loaded without this package. Its optimizers start anew. The given model stays
    as it is.

    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"num_experts": 1})
    >>> type(to_dense(model).policy).__name__
    'ActorCriticPolicy'

    :param model: a model with one of our policies
    :param task: the task that the dense model plays, if the task picks experts or heads
    :raises TypeError: if the policy is not ours
    :raises ValueError: if a mixture does not equal one network, or the extractor encodes images
    """
    old = policy_of(model)
    goes_by_task = any(layer.sees == "task" for layer in old.moe_layers().values())
    extractor = networks_of(old).extractors()["features"]
    num_tasks = one_hot_length(extractor) if goes_by_task else 0
    if task is not None and task not in range(num_tasks):
        raise ValueError(f"`task` must be None, or in [0, {num_tasks}), got {task!r}")
    check_defaults(old.moe, (*NO_DENSE_COUNTERPART, "tokens"), NO_DENSE_REASON)
    if getattr(extractor, "shows_planes", False):
        raise ValueError(
            "the task must not be shown in planes of the image, which SB3's extractors don't read "
            "as an id (`distill` fits a dense model)"
        )
    found = [_plain(network, task) for network in networks_of(old).networks()]
    widths = {}
    for plain in found:
        own = [m.out_features for m in leaves_of(plain.hidden) if isinstance(m, nn.Linear)]
        widths[kind_of(plain.name)] = own if plain.heads else own[:-1]
    net_arch = widths if len(widths) > 1 else next(iter(widths.values()))
    new = build_dense(model, old, net_arch)
    _write(new.policy, old, found, task)
    return as_sb3s(new, model)


def _write(new: Any, old: MoEPolicy, found: Sequence[Network], task: int | None) -> None:
    """Write plain layers' weights into a new policy: into its online and its target networks."""
    map_ = CopyMap(new, old, *(each for plain in found for each in plain.layers))
    cure = "fit one with `distill`, which begins with fresh noise"
    with map_.shown():
        for (mine, _, at), plain in zip(map_.networks(cure), found, strict=True):
            first = map_.in_order(leaves_of(mine.hidden), leaves_of(plain.hidden), at)
            for head, layers in zip(leaves_of(*mine.heads), plain.heads, strict=True):
                map_.in_order([head], leaves_of(layers), first)
    lagging: dict[Tensor, Tensor] = {}
    for network, plain in zip(map_.theirs.networks(), found, strict=True):
        # This network's target network, or the network itself if it has none.
        hidden, *heads = (map_.theirs.target_of(each) or each for each in network.layers)
        target = _plain(network._replace(hidden=hidden, heads=tuple(heads)), task)
        for ours, behind in zip(plain.layers, target.layers, strict=True):
            lagging |= zip(tensors_of(ours), tensors_of(behind), strict=True)
    map_.write_weights(lagging)


def _plain(network: Network, task: int | None) -> Network:
    """Return a network of plain layers; each head begins with its last linear layer."""
    if not network.heads:
        return network._replace(hidden=nn.Sequential(*plain_modules([network.hidden], task)))
    chains = [plain_modules([network.hidden, head], task) for head in network.heads]
    lasts = [max(i for i, m in enumerate(chain) if isinstance(m, nn.Linear)) for chain in chains]
    heads = (nn.Sequential(*chain[last:]) for chain, last in zip(chains, lasts, strict=True))
    hidden = nn.Sequential(*chains[0][: lasts[0]])
    return network._replace(hidden=hidden, heads=tuple(heads))


def plain_modules(modules: Sequence[nn.Module], task: int | None) -> list[nn.Module]:
    """Return plain layers that compute what some modules do; adjacent linear layers become one.

    :param modules: a network's modules, in the order in which they run
    :param task: the task whose samples the layers are for; None: any
    :raises ValueError: if no plain layers compute the same
    """
    found: list[nn.Module] = []
    for part in parts_of(*modules):
        if isinstance(part, Columns):
            last: Any = found[-1]  # linear: whole networks end so
            last.out_features = part.stop - part.start
            for parameter in last.parameters():
                parameter.data = parameter.data[part.start : part.stop].clone()
            continue
        for layer in _layer(part, task) if isinstance(part, MoELayer) else [copy.deepcopy(part)]:
            if isinstance(layer, nn.Linear) and found and isinstance(found[-1], nn.Linear):
                layer = in_one(found.pop(), layer)
            found.append(layer)
    return found


def _layer(layer: MoELayer, task: int | None) -> list[nn.Module]:
    """Return a mixture as plain layers.

    :raises ValueError: if no plain layers compute the same
    """
    experts = layer.experts
    gates = constant_gates(layer, task) or []
    used = {k: gate for k, gate in enumerate(gates) if gate}
    first, *others = made = [flat(experts.expert(k)) for k in used] or [[]]
    is_one = [*used.values()] == [1.0]
    is_shallow = not others or len(first) == 1
    is_linear = bool(first) and type(first[-1]) is nn.Linear and is_shallow
    if experts.combination or not (is_one or is_linear):
        raise ValueError(
            "`model` can only become dense if each mixture has a single expert, is asked for that "
            "of one `task`, or has linear experts under gates that are the same for every sample, "
            f"without `combine`; got `router`={layer.name!r} with {layer.num_experts} experts of "
            f"{len(first)} layers: `distill` fits a dense model"
        )
    with th.no_grad():
        for name, parameter in first[-1].named_parameters():
            weights = [modules[-1].get_parameter(name) for modules in made]
            gated = [each * gate for each, gate in zip(weights, used.values(), strict=True)]
            parameter.copy_(th.stack(gated).sum(0))
    return first


@th.no_grad()
def in_one(first: nn.Module, second: nn.Module) -> nn.Linear:
    """Return one linear layer that computes what two do, one after the other.

    :param first: (I to H)
    :param second: (H to O)
    """
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    one = nn.Linear(first.in_features, second.out_features).to(first.weight)
    one.weight.copy_(second.weight @ first.weight)
    one.bias.copy_(second(first(first.weight.new_zeros(first.in_features))))
    return one


# Where no dense model computes the same.


class Distilled(NamedTuple):
    """A dense model that was fitted to one with experts.

    :param model: the dense model, SB3's own
    :param remains: the error of its outputs on the observations, by network and head (``"pi.0"``):
        the root mean square of the difference from the original outputs, divided by the standard
        deviation of these
    """

    model: Any
    remains: dict[str, float]


def distill(
    model: BaseAlgorithm, obs: Any, *, steps: int = 1000, learning_rate: float = 1e-3
) -> Distilled:
    """Fit a dense model of SB3 to the outputs of a model with experts on given observations.

    Its hidden layers have the widths in the model's ``net_arch``. It learns every network's raw
    outputs, by Adam on all observations at once, without an environment or rewards. Extractors,
    LSTMs and a parameter ``log_std`` are copied.

    :param model: a model with one of our policies
    :param obs: a batch of observations, as environments give them
    :param steps: of Adam
    :param learning_rate: of Adam
    :raises TypeError: if the policy is not ours
    :raises ValueError: if the extractor encodes images, or ``steps`` is below 1
    """
    whole("steps", steps)
    old: Any = policy_of(model)
    check_defaults(old.moe, ("ent_coef_per_task",), NO_DENSE_REASON)
    new = build_dense(model, old, copy.deepcopy(old.net_arch))
    # Everything but hidden layers and heads is copied: the outputs for single observations don't
    # determine an LSTM, for example.
    map_ = CopyMap(new.policy, old)
    with map_.shown():
        for _ in map_.networks():
            pass
    map_.write_weights()
    ours, theirs = (policy.obs_to_tensor(obs)[0] for policy in (new.policy, old))
    remains = _fit(new.policy, old, ours, theirs, steps, learning_rate)
    for online, target in map_.ours.targets().items():
        target.load_state_dict(online.state_dict())
    return Distilled(as_sb3s(new, model), remains)


def _fit(
    new: Any, old: Any, obs: Any, old_obs: Any, steps: int, learning_rate: float
) -> dict[str, float]:
    with th.no_grad(), evaluating(old):
        # Only critics of actions need actions. A policy's attribute `critic` doesn't tell, since
        # RecurrentPPO's is a layer before the value network.
        is_asked = networks_of(old).critic_optimizer() is not None
        actions = old._predict(old_obs, deterministic=True) if is_asked else None
        wanted = raw_outputs(old, old_obs, actions)
    spread = {name: y.var(0, correction=0).mean() + 1e-12 for name, y in wanted.items()}
    networks = nn.ModuleList(m for own in networks_of(new).modules().values() for m in own)
    optimizer = th.optim.Adam(networks.parameters(), lr=learning_rate)

    def errors() -> dict[str, Tensor]:
        found = raw_outputs(new, obs, actions)
        return {n: F.mse_loss(found[n], y) / spread[n] for n, y in wanted.items()}

    for _ in range(steps):
        optimizer.zero_grad()
        th.stack([*errors().values()]).sum().backward()
        optimizer.step()
    new.zero_grad()
    with th.no_grad():
        return {name: error.sqrt().item() for name, error in errors().items()}
