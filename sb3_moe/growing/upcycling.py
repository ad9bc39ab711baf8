"""From a dense model to the same algorithm with experts that begin by doing what it did."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_moe.growing.copy_map import Leaf, tensors_of
from sb3_moe.growing.gates import take_copies
from sb3_moe.growing.layer_maps import LayerMap, dense_leaves, encodes, parts_of
from sb3_moe.growing.models import (
    NOT_SB3S,
    WHY_NOT,
    build_like,
    check_defaults,
    check_same,
    finish,
    moe_class,
    sampled,
)
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, kind_of, networks_of
from sb3_moe.policies.of_model import model_of_sb3
from sb3_moe.policies.options import ARGUMENTS, per_network
from sb3_moe.policies.placements import Placement
from sb3_moe.vec_env.task_ids import TASK_KEY, has_task_key

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
    old = _dense_policy(model)
    venv = model.get_env() if env is None else model._wrap_env(env, 0)
    if venv is not None:
        _check_env(model, venv)
    space = (model if venv is None else venv).observation_space
    policy_class = moe_class(model, space)
    for each in per_network(options, policy_class.network_names).values():
        check_defaults(each, _NOT_DENSE, "a dense model has nothing that could begin as that")
    kwargs = _policy_kwargs(model, old, num_tasks) | options
    new = build_like(model, policy_class, kwargs, venv)
    map_ = LayerMap(new.policy, old)
    _map(map_, new.policy, old, perturb)
    map_.write(networks_of(new.policy), networks_of(old))
    map_.write_states(networks_of(new.policy), networks_of(old), new.policy.moe_layers().values())
    obs = sampled(model.observation_space)
    check_same(new.policy, old, join_task(obs, new.observation_space), obs)
    return finish(new, model, venv)


def _dense_policy(model: BaseAlgorithm) -> Any:
    """Return a model's policy, which must be without experts."""
    model_of_sb3(model)
    policy = model.policy
    if isinstance(policy, MoEPolicy):
        if layers := sorted(policy.moe_layers()):
            raise ValueError(f"`model` must be dense, got one with experts: {layers}")
        for options in policy.moe.values():
            check_defaults(options, NOT_SB3S, WHY_NOT)
    return policy


def _policy_kwargs(model: BaseAlgorithm, old: Any, num_tasks: int | None) -> dict[str, Any]:
    """Return the arguments of the dense policy, with an extractor that tells the task id apart."""
    found = {k: copy.deepcopy(v) for k, v in model.policy_kwargs.items() if k not in ARGUMENTS}
    kind, kwargs = old.features_extractor_class, dict(old.features_extractor_kwargs)
    extractor = networks_of(old).extractors()["features"]
    if kind in (FlattenExtractor, CombinedExtractor) and not tensors_of(extractor):
        kind, kwargs = TaskExtractor, {"encoder": "flat"}
    kwargs.pop("raw", None)
    if num_tasks is not None:
        kwargs["num_tasks"] = num_tasks
    extractor_of_new = {"features_extractor_class": kind, "features_extractor_kwargs": kwargs}
    return found | extractor_of_new | {"net_arch": old.net_arch}


def _map(map_: LayerMap, new: Any, old: Any, perturb: float) -> None:
    """Say where all that a dense policy has goes in one with experts."""
    cure = "let the head stay dense (`placement`, `head_router`)"
    for mine, other, at in map_.networks(new, old, cure):
        hidden, heads = dense_leaves(map_.old, other)
        if encodes(mine):
            convs = other.extractor.get_submodule("convs").children()
            hidden = [*map_.old.leaves(convs), *hidden]
        experts = _ExpertsFromDense(map_, new.moe[kind_of(mine.name)].place, perturb)
        experts.network(mine, hidden, heads, at)


class _ExpertsFromDense:
    """Says where the numbers of networks with experts come from.

    :param map_: what it is written into
    :param place: where the network's experts sit
    :param perturb: how far experts under constant gates start apart, in their last layer, as a
        share of the size of its weights
    """

    def __init__(self, map_: LayerMap, place: Placement, perturb: float) -> None:
        self.map, self.place, self.perturb = map_, place, perturb

    def network(
        self, new: Network, hidden: list[Leaf], heads: list[Leaf], at: th.Tensor | None
    ) -> None:
        """Map hidden layers and heads.

        :param hidden: the dense hidden layers
        :param heads: the dense heads
        :param at: where the first layer finds each of its old inputs; None: where they were
        :raises ValueError: if they don't fit together
        """
        linears = sum(leaf.is_linear for leaf in hidden)
        depth = linears if heads else linears - 1
        if self.place.whole:
            self._chain([new.hidden, *new.heads], [*hidden, *_side_by_side(heads)], depth, at)
            return
        self._chain([new.hidden], hidden, depth, at)
        for module, leaf in zip(new.heads, heads, strict=True):
            self._chain([module], [leaf], depth, None if linears else at)

    def _chain(
        self, new: Sequence[nn.Module], old: Sequence[Leaf], depth: int, at: th.Tensor | None
    ) -> None:
        """Map modules that run one behind the other.

        :param depth: how many hidden layers the whole network has
        """
        rest = list(old)
        for part in parts_of(new):
            if isinstance(part, MoELayer):
                experts = self.map.new.experts(part.experts)
                count, more = self._span(experts[0], rest, depth)
                self._experts(part, experts, rest[:count], more, at)
                rest, at = rest[count:], None
                continue
            for leaf in self.map.new.leaves([part]):
                self.map.layer(leaf, rest.pop(0), columns=at)
                at = None if leaf.is_linear else at

    def _span(self, expert: Sequence[Leaf], rest: Sequence[Leaf], depth: int) -> tuple[int, bool]:
        """Return how many of the dense leaves an expert stands for, and if it has a layer more.

        :raises ValueError: if it has still more, or fewer
        """
        linears = [i for i, leaf in enumerate(rest) if leaf.is_linear]
        several = self.place.hidden == "one" and len(linears) > 1
        number = (depth + self.place.whole) if several else 1
        theirs = sum(leaf.is_linear for leaf in expert)
        if theirs not in (number, number + 1):
            raise ValueError(
                "`expert` must have as many linear layers as the dense layers it stands for, "
                f"{number}, or one more, got {theirs}"
            )
        count = linears[number - 1] + 1
        if theirs > number and not several:
            # The activation is in the experts too, and may hold numbers.
            count += sum(not leaf.is_linear for leaf in expert)
        return count, theirs > number

    def _experts(
        self,
        layer: MoELayer,
        experts: Sequence[Sequence[Leaf]],
        old: Sequence[Leaf],
        more: bool,
        at: th.Tensor | None,
    ) -> None:
        """Map every expert of a layer to the dense leaves that it stands for.

        :param more: whether experts have one linear layer more, which hands on what it is given
        """
        number, total = layer.num_experts, take_copies(layer)
        for *first, last in experts:
            columns_of_first = at
            for new, dense in zip(first, old if more else old[:-1], strict=True):
                self.map.layer(new, dense, columns=columns_of_first, gate=1 / number)
                columns_of_first = None if new.is_linear else columns_of_first
            if more:
                units = th.arange(len(old[0].places["weight"]))
                for places in last.places.values():
                    self.map.fill(places, 0.0)
                self.map.fill(last.places["weight"][units, units], 1 / total)
            else:
                gate = total / number
                self.map.linear(last, old[-1], columns_of_first, scale=1 / total, gate=gate)
        if layer.sees == "nothing" and number > 1:
            lasts = [expert[-1].places["weight"] for expert in experts]
            # An identity has one 1 in each row.
            like = old[-1].places["weight"]
            size = lasts[0].shape[1] ** -0.5 if more else self.map.size_of(like)
            self.map.move_apart(lasts, [1.0] * number, self.perturb * size)


def _side_by_side(heads: Sequence[Leaf]) -> list[Leaf]:
    """Return heads that read the same as one layer."""
    names = heads[0].places if heads else ()
    found = {name: th.cat([head.places[name] for head in heads]) for name in names}
    return [Leaf(True, found)] if heads else []


def _check_env(model: BaseAlgorithm, env: Any) -> None:
    """Raise ValueError unless a model can go on in an environment, where a task id may join."""
    old, new = model.observation_space, env.observation_space
    if env.action_space != model.action_space:
        raise ValueError(
            f"`env` must have the model's action space, {model.action_space}, got "
            f"{env.action_space}"
        )
    if new == old:
        return
    if isinstance(new, spaces.Dict) and has_task_key(new):
        rest = {key: each for key, each in new.spaces.items() if key != TASK_KEY}
        if rest == (dict(old) if isinstance(old, spaces.Dict) else {next(iter(rest), ""): old}):
            return
    raise ValueError(
        f"`env` must have the model's observation space, {old}, or a Dict of that and a Discrete "
        f"{TASK_KEY!r}, got {new}"
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
