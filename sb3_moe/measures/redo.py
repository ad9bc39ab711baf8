"""ReDo: give dormant neurons a new start (Sokar et al. 2023, arXiv 2302.12902, algorithm 1).

Shapes: E experts (1 for a dense layer), H units, O outputs, I inputs, P positions of a feature map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.measures.activations import Activations, hidden_layers, policy_activations
from sb3_moe.measures.plasticity import dormant_mask
from sb3_moe.measures.resets import fresh_copy, frozen_kept, kept_entries, moments
from sb3_moe.measures.weights import (
    Reader,
    View,
    Wiring,
    bias_of,
    incoming,
    outgoing,
    weight_of,
    wirings,
)
from sb3_moe.policies.masks import masked_as_before
from sb3_moe.vec_env.observations import Obs


def check_treatable(policy: BasePolicy) -> None:
    """Raise unless a policy has a layer of which the weights on both sides are known.

    :raises ValueError: if it has none
    """
    names = {layer.module for layer in hidden_layers(policy)}
    if not any(wiring.activation in names for wiring in wirings(policy)):
        raise ValueError(
            "`policy` must have a hidden layer between two linear or convolutional ones, got none"
        )


@th.no_grad()
def redo(
    policy: BasePolicy,
    obs: Obs,
    tau: float = 0.1,
    activity: Mapping[str, th.Tensor] | None = None,
) -> dict[str, int]:
    """Draw what leads into dormant neurons anew, and set what leads out and Adam's moments to 0.

    At tau 0 the policy does the same as before on ``obs``, unless a router normalizes its input, or
    reads it behind a normalization: what that makes of silent units only a bias can keep.
    The units of an expert to which a sparse router sends none of ``obs`` (one of another task, say)
    stay as they are: the measures of dormancy count them, but nothing tells what they would do. So
    do those of frozen experts, and those that a frozen expert or a router that is held still reads.

    :param policy: of any algorithm; hidden layers whose weights on both sides are not known
        (``sb3_moe.measures.weights`` knows which) stay as they are
    :param obs: observations by which activity is judged; the paper takes 256
    :param tau: units whose score is at most this are dormant
    :param activity: of each unit, (E, H) by layer, in place of what it is on ``obs``, such as
        ``sb3_moe.measures.gradients``; layers that it lacks stay as they are, and so
        does an expert of which it says 0 throughout
    :return: how many neurons started anew in each layer, ``<tower>.<index>``
    :raises ValueError: if ``tau`` is negative, no layer can be treated, or the policy can't be
        built again
    """
    check_treatable(policy)
    activations = policy_activations(policy, obs)
    names = {layer.module: layer.name for layer in hidden_layers(policy)}
    known = [wiring for wiring in wirings(policy) if names.get(wiring.activation) in activations]
    fresh = dict(zip(policy.modules(), fresh_copy(policy).modules(), strict=True))
    averages, kept = moments(policy), kept_entries(policy)
    counts = {}
    with masked_as_before(policy):
        for wiring in known:
            name = names[wiring.activation]
            if activity is not None and name not in activity:
                continue
            given_EH = None if activity is None else activity[name]
            mask_EH = _to_restart(activations[name], given_EH, tau)
            mask_EH &= ~_held_still(wiring, mask_EH, activations[name], kept)
            with frozen_kept(policy):
                _restart(wiring, mask_EH, activations[name], fresh, averages)
            counts[name] = int(mask_EH.sum())
    return counts


def _to_restart(activations: Activations, given_EH: th.Tensor | None, tau: float) -> th.Tensor:
    """Tell which units are dormant, (E, H), in the experts that saw any row."""
    if given_EH is None:
        mask_EH = dormant_mask(activations.activity_EH, tau)
        reached_E = activations.reached_E
    else:
        mask_EH, reached_E = dormant_mask(given_EH, tau), given_EH.any(1)
    return mask_EH if reached_E is None else mask_EH & reached_E.unsqueeze(1)


def _held_still(
    wiring: Wiring,
    mask_EH: th.Tensor,
    activations: Activations,
    kept: Mapping[th.Tensor, th.Tensor],
) -> th.Tensor:
    """Tell which units can't begin anew, (E, H): of frozen experts, or read by what stays."""
    still_EH = th.zeros_like(mask_EH)
    view = incoming(wiring.before)
    for tensor in wiring.before.parameters():
        if tensor in kept:
            still_EH |= view(kept[tensor]).reshape(*mask_EH.shape, -1).any(-1)
    for reader in wiring.after:
        weight = weight_of(reader.layer)
        if weight in kept:
            by_unit = _by_unit(reader, mask_EH, activations)
            read = by_unit(kept[weight]) & (by_unit(weight) != 0)
            still_EH |= read.reshape(*mask_EH.shape, -1).any(-1)
    return still_EH


def _by_unit(reader: Reader, mask_EH: th.Tensor, activations: Activations) -> View:
    num_experts, units = mask_EH.shape
    inputs = units if reader.by_position else units * activations.values_ETHP.shape[3]
    return outgoing(reader.layer, num_experts, units, inputs)


def _restart(
    wiring: Wiring,
    mask_EH: th.Tensor,
    activations: Activations,
    fresh: Mapping[nn.Module, nn.Module],
    averages: Mapping[th.Tensor, Sequence[th.Tensor]],
) -> None:
    new = dict(fresh[wiring.before].named_parameters())
    for name, tensor in wiring.before.named_parameters():
        view = incoming(wiring.before)
        view(tensor)[mask_EH] = view(new[name])[mask_EH]
        for moment in averages.get(tensor, ()):
            view(moment)[mask_EH] = 0.0
    constants_EH = None
    if wiring.norm is not None:
        constants_EH = _of_silent_units(wiring.norm, mask_EH)
        _restart_norm(wiring.norm, fresh[wiring.norm], mask_EH.flatten(), averages)
    for reader in wiring.after:
        by_unit = _by_unit(reader, mask_EH, activations)
        weight, bias = weight_of(reader.layer), bias_of(reader.layer)
        if constants_EH is not None and bias is not None:
            contributions = (by_unit(weight).movedim((0, 1), (-2, -1)) * constants_EH).sum(-1)
            bias += contributions.movedim(-1, 0).reshape(bias.shape)
        for stored in (weight, *averages.get(weight, ())):
            by_unit(stored)[mask_EH] = 0.0


def _of_silent_units(norm: nn.Module, mask_EH: th.Tensor) -> th.Tensor:
    """Return what a normalization makes of units that are 0, (E, H); 0 for those not masked."""
    zeros = th.zeros(1, mask_EH.numel(), device=mask_EH.device)
    with evaluating(norm):
        made: th.Tensor = norm(zeros)
    return made.view(mask_EH.shape) * mask_EH


def _restart_norm(
    norm: nn.Module,
    fresh: nn.Module,
    mask_H: th.Tensor,
    averages: Mapping[th.Tensor, Sequence[th.Tensor]],
) -> None:
    """Forget the statistics of units, their scale and their shift."""
    new = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
    for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
        if tensor.dim() > 0:
            tensor[mask_H] = new[name][mask_H]
            for moment in averages.get(tensor, ()):
                moment[mask_H] = 0.0
