"""From a model with experts to SB3's own dense model: the same, or fitted to it.

Shapes: B observations, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_moe.growing.building import (
    build_like,
    carry_the_rest,
    dress,
    with_gymnasiums_spaces,
)
from sb3_moe.growing.distilling import distil
from sb3_moe.growing.features import pieces
from sb3_moe.growing.fitting import Fit
from sb3_moe.growing.kinds import dense_class, dense_kwargs
from sb3_moe.growing.leaves import plain_leaves
from sb3_moe.growing.links import Link, Links
from sb3_moe.growing.matching import (
    dense_columns,
    extractor_links,
    linear_leaves,
    loose_links,
    memory_links,
)
from sb3_moe.growing.outputs import check_same, sampled
from sb3_moe.growing.plain import check_sb3s, check_usual, in_one, plain_modules, widths_of
from sb3_moe.networks import Network, Networks, kind_of, networks_of
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.towers import Columns
from sb3_moe.saving.generators import undone_on_failure
from sb3_moe.vec_env.task_ids import TASK_KEY, one_hot_behind


class _Plain(NamedTuple):
    """A network as plain layers: hidden ones, and each head's."""

    network: Network
    hidden: list[nn.Module]
    heads: list[list[nn.Module]]

    @property
    def widths(self) -> list[int]:
        """Of the hidden layers."""
        found = widths_of(self.hidden)
        return found if self.heads else found[:-1]


def to_dense(model: BaseAlgorithm, task: int | None = None, *, distill: Any = None) -> Any:
    """Return SB3's own dense model that does what one with experts does.

    There is one where the mixture is one network: one expert, the task router with its task,
    uniform gates over linear experts. It needs nothing of this package to be loaded. Its optimisers
    start anew. The given model stays as it is.

    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"num_experts": 1})
    >>> type(to_dense(model).policy).__name__
    'ActorCriticPolicy'

    :param model: with one of our policies
    :param task: the task whose observations it is for, where experts or heads go by that
    :param distill: observations; a dense network is fitted to what the model does on them, as
        :func:`~sb3_moe.growing.distil` does, and this returns what that returns
    :raises TypeError: if the policy is not ours
    :raises ValueError: if the mixture is not one network, or images are encoded
    """
    if distill is not None:
        if task is not None:
            raise ValueError(
                f"`task` must be None with `distill`, whose observations hold theirs, got {task}"
            )
        return distil(model, distill)
    old = policy_of(model)
    check_sb3s(old)
    _check_action_dims(old)
    _check_task(old, task)
    with undone_on_failure():
        found = [_plain(network, task) for network in networks_of(old).networks()]
        kwargs = dense_kwargs(model, old) | {"net_arch": _net_arch(old, found)}
        new = build_like(model, dense_class(model), kwargs, model.get_env())
        _fill(new.policy, old, found, task)
        carry_the_rest(new, model)
        obs = sampled(model.observation_space, 16)
        check_same(new.policy, old, *[_of_task(old, obs, task)] * 2)
        return with_gymnasiums_spaces(dress(new, model, model.get_env()))


# Arguments.


def _check_action_dims(policy: MoEPolicy) -> None:
    if any(options.action_dims is not None for options in policy.moe.values()):
        raise ValueError(
            "`model` must be without `action_dims`, which no policy of SB3's has: give `distill`"
        )


def _check_task(policy: MoEPolicy, task: int | None) -> None:
    if task is None:
        return
    num_tasks = _num_tasks(policy)
    if isinstance(task, bool) or not isinstance(task, int | np.integer):
        raise TypeError(f"`task` must be an int, got {task!r}")
    if not num_tasks:
        raise ValueError(f"`task` must be None where observations tell no task, got {task}")
    if not 0 <= task < num_tasks:
        raise ValueError(
            f"`task` must be in [0, {num_tasks}), the tasks that observations tell, got {task}"
        )
    if not any(layer.sees_task for layer in policy.moe_layers().values()):
        raise ValueError(
            "`task` must be None where no experts go by the task: the dense model is for all, got "
            f"{task}"
        )


def _num_tasks(policy: Any) -> int:
    return one_hot_behind(networks_of(policy).extractors()["features"])


def _net_arch(old: MoEPolicy, found: Sequence[_Plain]) -> Any:
    widths = {kind_of(plain.network.tower): plain.widths for plain in found}
    return widths if len(old.towers) > 1 else widths[old.towers[0]]


# Weights.


def _plain(network: Network, task: int | None) -> _Plain:
    """Return a network as plain layers, its heads apart from hidden layers if SB3's are."""
    hidden = plain_modules([network.hidden], task)
    heads = [plain_modules([head], task) for head in network.heads]
    if heads and not any(heads):  # whole networks end in all heads together
        *hidden, last = hidden
        assert isinstance(last, nn.Linear)
        heads = [[each] for each in _columns_of(last, network.heads)]
    elif len(heads) == 1 and not hidden and isinstance(heads[0][-1], nn.Linear):
        # Whole networks stand where the head did, or there is nothing but the head.
        *hidden, last = heads[0]
        heads = [[last]]
    elif hidden and isinstance(hidden[-1], nn.Linear) and heads:
        *hidden, last = hidden
        heads = [[in_one(last, head[0]), *head[1:]] for head in heads]
    for head in heads or [[]]:
        check_usual([*hidden, *head])
    return _Plain(network, hidden, heads)


@th.no_grad()
def _columns_of(linear: nn.Linear, heads: Sequence[nn.Module]) -> list[nn.Linear]:
    """Return a linear layer for the columns that each head takes."""
    found = []
    for head in heads:
        assert isinstance(head, Columns)
        one = nn.Linear(linear.in_features, head.stop - head.start).to(linear.weight)
        one.weight.copy_(linear.weight[head.start : head.stop])
        one.bias.copy_(linear.bias[head.start : head.stop])
        found.append(one)
    return found


def _fill(new: Any, old: MoEPolicy, found: Sequence[_Plain], task: int | None) -> None:
    """Write the weights of plain layers, of the online networks and of those that lag behind."""
    ours, theirs = networks_of(new), networks_of(old)
    links: list[Link] = []
    for mine, plain in zip(ours.networks(), found, strict=True):
        at = _columns(new, old, mine, plain)
        links += _links(mine, plain, at)
        if mine.memory is not None and plain.network.memory is not None:
            links += memory_links(mine.memory, plain.network.memory, at)
        lagging, other = (_lagging(n, each) for n, each in ((ours, mine), (theirs, plain.network)))
        if lagging is not None and other is not None:
            links += _links(lagging, _plain(other, task), at)
    loose, other_shapes = loose_links(ours, theirs)
    if other_shapes:
        raise ValueError(
            f"gSDE's noise, {other_shapes[0]}, is for a latent of another width than the dense "
            "model has: fit one with `distill`, which begins with fresh noise"
        )
    Links(links + loose).write_weights()


def _links(new: Network, plain: _Plain, at: th.Tensor | None) -> list[Link]:
    links = extractor_links(new.extractor, plain.network.extractor)
    fit = Fit(columns=None if new.memory is not None else at)
    hidden, heads = linear_leaves(new)
    rows = [(leaf, source) for leaf, source in zip(hidden, plain_leaves(plain.hidden), strict=True)]
    first = fit
    for leaf, source in rows:
        links += first.any(leaf, source)
        first = Fit() if leaf.is_linear else first
    for leaf, modules in zip(heads, plain.heads, strict=True):
        (source,) = plain_leaves(modules)
        links += first.any(leaf, source)
    return links


def _lagging(networks: Networks, network: Network) -> Network | None:
    """Return the target network that follows an online one, if any does."""
    hidden = networks.follower(network.hidden)
    if hidden is None:
        return None
    heads = tuple(networks.follower(head) or head for head in network.heads)
    extractor = networks.follower(network.extractor) or network.extractor
    return Network(network.tower, extractor, hidden, heads)


def _columns(new: Any, old: MoEPolicy, mine: Network, plain: _Plain) -> th.Tensor:
    """Return where the first dense layer finds each input that the experts saw."""
    found = dense_columns(new, mine, old, plain.network)
    if mine.memory is None:
        linear = next(m for m in (*plain.hidden, *chain(*plain.heads)) if isinstance(m, nn.Linear))
        total = sum(map(len, pieces(mine.extractor, new.observation_space).values()))
        found += range(total, total + linear.in_features - len(found))
    return th.tensor(found)


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
