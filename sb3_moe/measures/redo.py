"""ReDo: give dormant neurons a new start (Sokar et al. 2023, arXiv 2302.12902, algorithm 1).

Shapes: E experts (1 for a dense layer), H units, P positions of a feature map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_moe.measures.activations import Activations, policy_activations
from sb3_moe.measures.plasticity import dormant_mask
from sb3_moe.measures.resets import fresh_modules, frozen_kept, kept_entries, moments
from sb3_moe.measures.weights import (
    HiddenLayer,
    Reader,
    View,
    hidden_layers,
    incoming,
    outgoing,
    weight_of,
)
from sb3_moe.policies.masks import masked_as_before
from sb3_moe.vec_env.observations import Obs


def treatable_layers(policy: BasePolicy) -> list[HiddenLayer]:
    """List the hidden layers of which the weights on both sides are known.

    :raises ValueError: if there is none
    """
    found = [layer for layer in hidden_layers(policy) if layer.readers]
    if not found:
        raise ValueError(
            "`policy` must have a hidden layer between two linear or convolutional ones, got none"
        )
    return found


@th.no_grad()
def redo(
    policy: BasePolicy,
    obs: Obs,
    tau: float = 0.1,
    activity: Mapping[str, th.Tensor] | None = None,
) -> dict[str, int]:
    """Draw what leads into dormant neurons anew, and set what leads out and Adam's moments to 0.

    At tau 0 the policy does the same as before on ``obs``, unless a normalization stands between
    silent units and what reads them.
    The units of an expert to which a sparse router sends none of ``obs`` (one of another task, say)
    stay as they are: the measures of dormancy count them, but nothing tells what they would do. So
    do those of frozen experts, and those that a frozen expert or a router that is held still reads.

    :param policy: of any algorithm; a hidden layer stays as it is unless the weights on both sides
        are known, see :func:`~sb3_moe.measures.hidden_layers`
    :param obs: observations by which activity is judged; the paper takes 256
    :param tau: units whose score is at most this are dormant
    :param activity: of each unit, (E, H) by layer, in place of what it is on ``obs``, such as
        :func:`~sb3_moe.measures.gradient_activity`; layers that it lacks stay as they are, and so
        does an expert of which it says 0 throughout
    :return: how many neurons started anew in each layer, ``<network>.<index>``
    :raises ValueError: if ``tau`` is negative, no layer can be treated, or the policy can't be
        built again
    """
    layers, activations = treatable_layers(policy), policy_activations(policy, obs)
    fresh, averages, kept = fresh_modules(policy), moments(policy), kept_entries(policy)
    counts = {}
    with masked_as_before(policy), frozen_kept(policy):
        for layer in layers:
            seen, given_EH = activations.get(layer.name), (activity or {}).get(layer.name)
            if seen is None or (activity is not None and given_EH is None):
                continue
            mask_EH = _to_restart(seen, given_EH, tau)
            positions = seen.values_ETHP.shape[3]
            mask_EH &= ~_held_still(layer, mask_EH, positions, kept)
            _restart(layer, mask_EH, positions, fresh, averages)
            counts[layer.name] = int(mask_EH.sum())
    return counts


def _to_restart(activations: Activations, given_EH: th.Tensor | None, tau: float) -> th.Tensor:
    """Tell which units are dormant, (E, H), in the experts that saw any row."""
    if given_EH is not None:
        return dormant_mask(given_EH, tau) & given_EH.any(1, keepdim=True)
    mask_EH, reached_E = dormant_mask(activations.activity_EH, tau), activations.reached_E
    return mask_EH if reached_E is None else mask_EH & reached_E.unsqueeze(1)


def _held_still(
    layer: HiddenLayer, mask_EH: th.Tensor, positions: int, kept: Mapping[th.Tensor, th.Tensor]
) -> th.Tensor:
    """Tell which units can't begin anew, (E, H): of frozen experts, or read by what stays."""
    assert layer.feeder is not None
    into = incoming(layer.feeder)
    still = [into(kept[each]) for each in layer.feeder.parameters() if each in kept]
    for reader in layer.readers:
        weight, by_unit = weight_of(reader.layer), _by_unit(reader, mask_EH, positions)
        if weight in kept:
            still.append(by_unit(kept[weight]) & (by_unit(weight) != 0))
    still_EH = th.zeros_like(mask_EH)
    for each in still:
        still_EH |= each.reshape(*mask_EH.shape, -1).any(-1)
    return still_EH


def _by_unit(reader: Reader, mask_EH: th.Tensor, positions: int) -> View:
    num_experts, units = mask_EH.shape
    return outgoing(
        reader.layer, num_experts, units, units if reader.by_position else units * positions
    )


def _restart(
    layer: HiddenLayer,
    mask_EH: th.Tensor,
    positions: int,
    fresh: Mapping[nn.Module, nn.Module],
    averages: Mapping[th.Tensor, Sequence[th.Tensor]],
) -> None:
    assert layer.feeder is not None
    anew: list[tuple[nn.Module, View]] = [(layer.feeder, incoming(layer.feeder))]
    if layer.norm is not None:  # its statistics too, which are of silent units
        anew.append((layer.norm, lambda tensor: tensor.view(mask_EH.shape)))
    for module, view in anew:
        new = fresh[module].state_dict()
        for name, tensor in module.state_dict(keep_vars=True).items():
            if tensor.dim() == 0:
                continue  # a count of batches
            view(tensor)[mask_EH] = view(new[name])[mask_EH]
            for moment in averages.get(tensor, ()):
                view(moment)[mask_EH] = 0.0
    for reader in layer.readers:
        weight, by_unit = weight_of(reader.layer), _by_unit(reader, mask_EH, positions)
        for stored in (weight, *averages.get(weight, ())):
            by_unit(stored)[mask_EH] = 0.0
