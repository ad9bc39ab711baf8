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

from sb3_moe.growing.copy_map import tensors_of
from sb3_moe.growing.gates import take_copies
from sb3_moe.growing.layer_maps import LayerMap, encodes, leaves_of, parts_of
from sb3_moe.growing.models import (
    NOT_SB3S,
    WHY_NOT,
    build_like,
    changed_kwargs,
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
from sb3_moe.policies.networks import kind_of, networks_of
from sb3_moe.policies.of_model import model_of_sb3
from sb3_moe.policies.options import per_network
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
    asked = per_network(options, policy_class.network_names)
    check_defaults(asked, _NOT_DENSE, "a dense model has nothing that could begin as that")
    kwargs = _policy_kwargs(model, old, num_tasks) | options
    new = build_like(model, policy_class, kwargs, venv)
    totals = {layer: take_copies(layer) for layer in new.policy.moe_layers().values()}
    map_ = LayerMap(new.policy, old)
    with map_.made():
        _map(map_, new.policy, old, totals, perturb)
    ours, theirs = networks_of(new.policy), networks_of(old)
    map_.write_weights(ours, theirs)
    pairs = [*zip(ours.every_optimizer(), theirs.every_optimizer(), strict=True)]
    # One that knows experts is of a class made from the one that doesn't.
    if all(isinstance(a, type(b)) or isinstance(b, type(a)) for a, b in pairs):
        states = {p: s for _, each in pairs for p, s in each.state.items() if s}
        for mine, _ in pairs:
            mine.state.update(map_.states(states, mine))
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
        check_defaults(policy.moe, NOT_SB3S, WHY_NOT)
    return policy


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


def _map(map_: LayerMap, new: Any, old: Any, totals: dict[MoELayer, float], perturb: float) -> None:
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
        self, map_: LayerMap, totals: dict[MoELayer, float], number: int, perturb: float
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
            lasts = [expert[-1].get_parameter("weight") for expert in experts]
            # An identity has one 1 in each row.
            like = old[-1].get_parameter("weight")
            size = lasts[0].shape[1] ** -0.5 if more else self.map.size_of(like)
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
