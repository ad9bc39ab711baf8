"""How much gradient reaches each neuron (GraMa; Liu et al. 2025, arXiv 2505.24061).

Shapes: E experts (1 for a dense layer), H units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_moe.layers import Experts, MoELayer, SeparateNetworks
from sb3_moe.layers.stacked import StackedEach
from sb3_moe.networks import networks_of
from sb3_moe.plasticity.activations import is_activation
from sb3_moe.plasticity.dormant import TAUS, dormant_fraction
from sb3_moe.plasticity.hidden_layers import hidden_layers
from sb3_moe.plasticity.weight_views import WEIGHTED, incoming, weight_of
from sb3_moe.plasticity.weights import NOT_KEPT

# Whose modules run their parts in the order in which they hold them.
_KNOWN = ("torch", "stable_baselines3", "sb3_contrib", "sb3_moe")


def gradient_activity(
    policy: BasePolicy, gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT
) -> dict[str, th.Tensor]:
    """Return the mean absolute gradient of the weights into each unit, (E, H), by hidden layer.

    It takes the place of activities in :func:`~sb3_moe.plasticity.dormant_scores`. The gradient is
    that of the last update, as in the authors' code: nothing is computed for it. Layers next to a
    normalisation and in residual blocks have one too.

    :param policy: of any algorithm; layers without gradient are left out
    :param gradients: of some parameters, in place of what their ``.grad`` holds; see
        :class:`~sb3_moe.plasticity.critic_gradients.CriticGradients`
    """
    feeders, found = _feeders(policy), {}
    for layer in hidden_layers(policy):
        feeder = feeders.get(layer.module)
        if feeder is None:
            continue
        weight = weight_of(feeder)
        gradient = gradients.get(weight, weight.grad)
        if gradient is not None:
            found[layer.name] = incoming(feeder)(gradient).abs().flatten(2).mean(2)
    return found


def measure_gradients(
    policy: BasePolicy,
    gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT,
    taus: Sequence[float] = TAUS,
) -> dict[str, float]:
    """Measure the share of units of each hidden layer that hardly any gradient reaches.

    ``inactive/<layer>`` is at the first tau, ``inactive@<tau>/<layer>`` at the others; all units of
    all experts count as one layer.

    :param policy: of any algorithm
    :param gradients: as in :func:`gradient_activity`
    :param taus: thresholds; the first is the primary one
    :raises ValueError: if a threshold is negative
    """
    names = ["inactive", *(f"inactive@{tau}" for tau in taus[1:])]
    return {
        f"{name}/{layer}": dormant_fraction(activity_EH, tau)
        for layer, activity_EH in gradient_activity(policy, gradients).items()
        for name, tau in zip(names, taus, strict=True)
    }


def _feeders(policy: BasePolicy) -> dict[nn.Module, nn.Module]:
    """Return the layer whose weights lead into each activation, if one does."""
    feeders: dict[nn.Module, nn.Module] = {}
    for net in networks_of(policy).networks():
        for part in (net.extractor, net.hidden, *net.heads):
            last: nn.Module | None = None
            for leaf in _leaves(part):
                if leaf is not None and is_activation(leaf) and last is not None:
                    feeders.setdefault(leaf, last)
                if leaf is None or isinstance(leaf, WEIGHTED) or is_activation(leaf):
                    last = leaf if isinstance(leaf, WEIGHTED) else None
    return feeders


def _leaves(module: nn.Module) -> Iterator[nn.Module | None]:
    """Yield a network's parts in the order in which they run, and None where one ends.

    Weights within a mixture lead into nothing outside: only its sum does. A class of the user's
    own may run its parts in any order: none of them is known to lead into the next.
    """
    if isinstance(module, MoELayer):
        yield from _leaves(module.experts)
    elif isinstance(module, SeparateNetworks):
        for each in module.each:
            yield from _leaves(each)
            yield None
    elif isinstance(module, (*WEIGHTED, StackedEach)) or not any(True for _ in module.children()):
        yield module
    else:
        in_order = not _is_of_users(module)
        for child in module.children():
            yield from _leaves(child)
            if not in_order:
                yield None
    if isinstance(module, Experts):
        yield None


def _is_of_users(module: nn.Module) -> bool:
    """Say whether nobody but its writer knows how a module runs its parts."""
    return type(module).forward.__module__.partition(".")[0] not in _KNOWN
