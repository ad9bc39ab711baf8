"""Which part of a new policy takes the place of which part of an old one.

Shapes: A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_moe.growing.features import WHOLE, columns, pieces
from sb3_moe.growing.fitting import Fit
from sb3_moe.growing.grafts import Graft, parts_of
from sb3_moe.growing.leaves import Held, Leaf, plain_leaves
from sb3_moe.growing.links import Link, Links
from sb3_moe.networks import Network, Networks, kind_of, networks_of
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import MoEOptions
from sb3_moe.vec_env.task_ids import TASK_KEY

# Makes the graft of a tower.
MakeGraft = Callable[[MoEOptions], Graft]
# What reads an LSTM's, or a linear layer's, input.
READS = ("weight_ih_l0", "weight")


def linear_leaves(network: Network) -> tuple[list[Leaf], list[Leaf]]:
    """Return what holds numbers in a dense network: hidden layers, and heads apart from them.

    :param network: of a policy
    """
    hidden = plain_leaves(parts_of([network.hidden]))
    heads = [leaf for head in network.heads for leaf in plain_leaves(parts_of([head]))]
    return hidden, heads


def link_policies(new: MoEPolicy, old: Any, make_graft: MakeGraft) -> Links:
    """Link every tensor of a new policy that comes from an old one.

    :param new: with experts
    :param old: dense
    :param make_graft: for the options of a tower
    :raises ValueError: if they don't fit together
    """
    ours, theirs = networks_of(new), networks_of(old)
    links: list[Link] = []
    for mine, other in zip(ours.networks(), theirs.networks(), strict=True):
        at = _columns(new, mine, old, other)
        links += extractor_links(mine.extractor, other.extractor)
        graft = make_graft(new.moe[kind_of(mine.tower)])
        behind_memory = mine.memory is not None
        _link_network(graft, mine, other, None if behind_memory else at)
        links += graft.links
        if mine.memory is not None and other.memory is not None:
            links += memory_links(mine.memory, other.memory, at)
    loose, other_shapes = loose_links(ours, theirs)
    if other_shapes:
        raise ValueError(
            f"gSDE's noise, {other_shapes[0]}, is for a latent of another width than the dense "
            "model has: let the head stay dense (`placement`, `head_router`)"
        )
    return Links(links + loose)


def _link_network(graft: Graft, new: Network, old: Network, at: th.Tensor | None) -> None:
    hidden, heads = linear_leaves(old)
    linears = sum(leaf.is_linear for leaf in hidden)
    depth = linears if heads else linears - 1
    if _encodes(new):
        hidden = [*plain_leaves(old.extractor.get_submodule("convs").children()), *hidden]
    if graft.place.whole:
        head = [replace(heads[0], beside=tuple(heads[1:]))] if heads else []
        modules = [new.hidden, *new.heads]
        graft.network(modules, [*hidden, *head], behind=None, depth=depth, columns=at)
        return
    behind = heads[0] if heads else None
    graft.network([new.hidden], hidden, behind=behind, depth=depth, columns=at)
    for module, leaf in zip(new.heads, heads, strict=True):
        first = None if linears else at
        graft.network([module], [leaf], behind=None, depth=depth, columns=first)


def _encodes(network: Network) -> bool:
    """Say whether a network holds the encoder of its pictures."""
    extractor = network.extractor
    return isinstance(extractor, TaskExtractor) and extractor.image_shape is not None


def extractor_links(new: nn.Module, old: nn.Module) -> list[Link]:
    """Link the encoders of two extractors, where the new one still has them."""
    ours, theirs = (_tensors(each) for each in (new, old))
    if not ours:
        return []
    return [Link(Held(a), b) for a, b in zip(ours, theirs, strict=True)]


def memory_links(new: nn.Module, old: nn.Module, at: th.Tensor | None) -> list[Link]:
    """Link what stands between extractors and towers.

    :param new: an LSTM, or a linear layer
    :param old: the same
    :param at: where the new one finds each input of the old one; None: where it was
    """
    links = []
    named = zip(new.named_parameters(), old.parameters(), strict=True)
    for (name, mine), theirs in named:
        if at is not None and name.split(".")[-1] in READS:
            leaf, other = (Leaf(True, {"weight": Held(each)}) for each in (mine, theirs))
            links += Fit(columns=at).linear(leaf, other)
        else:
            links.append(Link(Held(mine), theirs))
    return links


def loose_links(new: Networks, old: Networks) -> tuple[list[Link], list[str]]:
    """Link the parameters that lie in no layer, such as ``log_std``.

    :return: links, and the names of parameters that have another shape there: gSDE's noise for a
        latent of another width
    """
    links, other_shapes, theirs = list[Link](), list[str](), old.loose()
    for name, held in new.loose().items():
        for mine, other in zip(held, theirs[name], strict=True):
            if mine.shape == other.shape:
                links.append(Link(Held(mine), other))
            else:
                other_shapes.append(name)
    return links, other_shapes


def dense_columns(new: Any, mine: Network, old: MoEPolicy, other: Network) -> list[int]:
    """Return where what a dense policy reads has each feature that the experts saw.

    :param new: the dense policy
    :param mine: its network
    :param old: the policy with experts
    :param other: the network of that
    """
    ours = pieces(mine.extractor, new.observation_space)
    theirs = _seen(old, kind_of(mine.tower), pieces(other.extractor, old.observation_space))
    if isinstance(new.observation_space, spaces.Dict):
        return columns(theirs, ours)
    return list(range(sum(map(len, theirs.values()))))  # a one-hot is at the end


def _tensors(module: nn.Module) -> list[th.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _columns(new: Any, mine: Network, old: Any, other: Network) -> th.Tensor | None:
    """Return where the first layer of a network finds each input of the dense one."""
    tower = kind_of(mine.tower)
    ours = _seen(new, tower, pieces(mine.extractor, new.observation_space))
    theirs = _seen(old, tower, pieces(other.extractor, old.observation_space))
    if _encodes(mine):
        rest = sum(len(at) for key, at in theirs.items() if key != TASK_KEY)
        tasks = len(ours.get(TASK_KEY, ()))
        ours = {WHOLE: range(rest)} | ({TASK_KEY: range(rest, rest + tasks)} if tasks else {})
    found = columns(theirs, ours)
    width = sum(map(len, ours.values()))
    found += range(width, width + _num_judged(other, len(found)))
    if found == list(range(len(found))) and width == sum(map(len, theirs.values())):
        return None
    return th.tensor(found)


def _seen(policy: Any, tower: str, parts: dict[str, range]) -> dict[str, range]:
    """Leave out the task id where only routers see it."""
    hides = isinstance(policy, MoEPolicy) and not policy.moe[tower].experts_see_task
    return {key: at for key, at in parts.items() if not (hides and key == TASK_KEY)}


def _num_judged(network: Network, features: int) -> int:
    """Return A, the inputs of the first layer behind the features, 0 where there are none."""
    if network.memory is not None:
        return 0
    hidden, heads = linear_leaves(network)
    linear = next(leaf for leaf in (*hidden, *heads) if leaf.is_linear)
    return int(linear.tensors["weight"].value.shape[1]) - features
