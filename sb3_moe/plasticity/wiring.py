"""Which weights lead into a hidden layer and which lead out of it, dense or stacked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from sb3_moe.layers import LinearRouter, MoELayer
from sb3_moe.layers.stacked import StackedConv2d, StackedLinear
from sb3_moe.plasticity.activations import ACTIVATIONS

WEIGHTED = (nn.Linear, nn.Conv2d, StackedLinear, StackedConv2d, LinearRouter)


class Wiring(NamedTuple):
    """One hidden layer between the layers before and after it.

    :param activation: the hidden layer's activation
    :param before: what leads into it
    :param after: every layer whose inputs begin with it
    """

    activation: nn.Module
    before: nn.Module
    after: list[nn.Module]


def wirings(policy: BasePolicy) -> list[Wiring]:
    """Return every hidden layer whose weights on both sides are known.

    Left out are layers next to a normalisation or in a residual block, and features extractors that
    join several networks.

    :param policy: of any algorithm
    """
    bodies = _bodies(policy)
    found: list[Wiring] = []
    for body, last in bodies:
        found += _along(_leaves(body), _readers(last))
        found += [wiring for head in last for wiring in _along(_leaves(head), [])]
    readers = [first for body, last in bodies for first in _readers([_first(body, last)])]
    for extractor in _extractors(policy):
        found += _along(_leaves(extractor), readers)
    return found


def heads(policy: BasePolicy) -> list[nn.Module]:
    """Return the last layer of every online network: a linear one, or a mixture of those.

    :param policy: of any algorithm
    """
    return [_last(network) for body, last in _bodies(policy) for network in last or [body]]


def _last(network: nn.Module) -> nn.Module:
    layer = [leaf for leaf in _leaves(network) if isinstance(leaf, (*WEIGHTED, MoELayer))][-1]
    # The experts of "big" are whole networks, each with a head of its own.
    return layer.experts.last if isinstance(layer, MoELayer) and layer.experts.spreads else layer


def _bodies(policy: Any) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Return each tower's hidden layers and what reads the last of them."""
    if isinstance(policy, ActorCriticPolicy):
        extractor = policy.mlp_extractor
        return [
            (extractor.policy_net, [policy.action_net]),
            (extractor.value_net, [policy.value_net]),
        ]
    bodies: list[tuple[nn.Module, list[nn.Module]]] = []
    actor = getattr(policy, "actor", None)
    if actor is not None:
        hidden = getattr(actor, "latent_pi", None)
        heads = [m for m in (actor.mu, getattr(actor, "log_std", None)) if isinstance(m, nn.Module)]
        bodies.append((actor.mu, []) if hidden is None else (hidden, heads))
        critics = policy.critic.named_children()
        bodies += [(critic, []) for name, critic in critics if re.fullmatch(r"qf\d+", name)]
    else:
        q_net = getattr(policy, "q_net", None)
        bodies.append((policy.quantile_net.quantile_net if q_net is None else q_net.q_net, []))
    return bodies


def _extractors(policy: Any) -> list[nn.Module]:
    """Return the features extractors that are one network, each once."""
    holders = [policy, getattr(policy, "actor", None), getattr(policy, "critic", None)]
    holders += [getattr(policy, "q_net", None), getattr(policy, "quantile_net", None)]
    names = ("features_extractor", "vf_features_extractor")
    found = [getattr(holder, name, None) for holder in holders for name in names]
    return [each for each in dict.fromkeys(found) if each is not None and _is_one_network(each)]


def _is_one_network(extractor: nn.Module) -> bool:
    # Ours has one entry in `convs` for each image.
    return isinstance(extractor, NatureCNN) or len(getattr(extractor, "convs", ())) == 1


def _first(body: nn.Module, heads: Sequence[nn.Module]) -> nn.Module:
    """Return the first layer of a tower with weights; a head, if there are no hidden layers."""
    leaves = [leaf for leaf in _leaves(body) if isinstance(leaf, (*WEIGHTED, MoELayer))]
    return [*leaves, *heads][0]


def _leaves(module: nn.Module) -> list[nn.Module]:
    """List a module's parts in the order in which they run; a mixture is one part."""
    children = list(module.children())
    if isinstance(module, nn.Sequential) and not children:
        return []
    if isinstance(module, (*WEIGHTED, MoELayer)) or not children:
        return [module]
    return [leaf for child in children for leaf in _leaves(child)]


def _along(chain: Sequence[nn.Module], heads: list[nn.Module]) -> Iterator[Wiring]:
    """Find the hidden layers along a chain, and within its mixtures.

    :param chain: parts in the order in which they run
    :param heads: what reads the last of them
    """
    for i, part in enumerate(chain):
        if isinstance(part, MoELayer):
            yield from _along([*_leaves(part.experts.layers), part.experts.last], [])
        elif isinstance(part, ACTIVATIONS) and i > 0 and isinstance(chain[i - 1], WEIGHTED):
            after = _readers(_next(chain[i + 1 :])) or heads
            if after and all(isinstance(layer, WEIGHTED) for layer in after):
                yield Wiring(part, chain[i - 1], after)


def _next(rest: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the next part that does more than reshape."""
    for part in rest:
        if any(True for _ in part.parameters()) or isinstance(part, ACTIVATIONS):
            return [part]
    return []


def _readers(parts: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the layers by which parts read their input: a mixture has experts and a router."""
    readers: list[nn.Module] = []
    for part in parts:
        if isinstance(part, MoELayer):
            first = next(m for m in part.experts.modules() if isinstance(m, WEIGHTED))
            router = getattr(part, "router", None)
            readers += [first] if router is None else [first, router]
        else:
            readers += _leaves(part)[:1]
    return readers
