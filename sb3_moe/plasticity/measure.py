"""Every measure of plasticity of a policy on a batch of each task, as one flat dict.

Shapes: N tasks, E experts, H units, T rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.networks import networks_of
from sb3_moe.observations.batches import Obs, concatenate, select
from sb3_moe.plasticity.activations import Activations
from sb3_moe.plasticity.dormant import TAUS, dormant_fraction, dormant_fraction_per_expert
from sb3_moe.plasticity.hidden_layers import online_parameters
from sb3_moe.plasticity.probe import policy_activations
from sb3_moe.plasticity.rank import effective_rank, ntk_rank, stable_rank
from sb3_moe.plasticity.weights import (
    NOT_KEPT,
    gradient_norm,
    weight_norm,
    zero_gradient_fraction,
)

Measures = dict[str, Any]


def measure_layers(
    policy: BasePolicy, batches: Sequence[Obs], taus: Sequence[float] = TAUS
) -> Measures:
    """Measure dormancy and ranks of every hidden layer.

    ``dormant/<layer>`` is pooled over the layer and all tasks at the first tau, the primary
    measure; ``dormant@<tau>/<layer>`` at the others; ``dormant_per_task`` (N,) on each task's batch
    alone; ``dormant_per_expert``, the mean of each expert's own fraction, and ``dormant_gated``,
    with activities weighted by the gates, are for layers in a mixture. ``effective_rank`` and
    ``stable_rank`` are of the layer's features over all tasks.

    :param policy: of any algorithm
    :param batches: observations of each task
    :param taus: thresholds; the first is the primary one
    :raises ValueError: if a threshold is negative
    """
    by_task = [policy_activations(policy, batch) for batch in batches]
    measures: Measures = {}
    for layer in by_task[0]:
        seen = [activations[layer] for activations in by_task if layer in activations]
        for name, value in _layer(seen, taus).items():
            measures[f"{name}/{layer}"] = value
    return measures


def _layer(seen: Sequence[Activations], taus: Sequence[float]) -> Measures:
    activity_NEH = th.stack([each.activity_EH for each in seen])
    pooled_EH, tau = activity_NEH.mean(0), taus[0]
    measures: Measures = {"dormant": dormant_fraction(pooled_EH, tau)}
    measures |= {f"dormant@{other}": dormant_fraction(pooled_EH, other) for other in taus[1:]}
    measures["dormant_per_task"] = np.array([dormant_fraction(a_EH, tau) for a_EH in activity_NEH])
    if seen[0].gates_TE is not None:
        gated_EH = th.stack([each.gated_activity_EH for each in seen]).mean(0)
        measures["dormant_gated"] = dormant_fraction(gated_EH, tau)
        per_expert_E = dormant_fraction_per_expert(pooled_EH, tau)
        measures["dormant_per_expert"] = float(per_expert_E.mean())
    features_TF = th.cat([each.features_TF for each in seen])
    measures["effective_rank"] = effective_rank(features_TF)
    measures["stable_rank"] = stable_rank(features_TF)
    return measures


def measure_weights(
    policy: BasePolicy, gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT
) -> Measures:
    """Measure the size of the weights of every tower, and of their gradients where there are any.

    Gradients are those of the last update, after clipping. Where a critic has an optimiser of its
    own, its ``.grad`` holds what the actor's loss left there too: give what
    :class:`~sb3_moe.plasticity.critic_gradients.CriticGradients` kept.

    :param policy: of any algorithm
    :param gradients: of some parameters, in place of what their ``.grad`` holds
    """
    measures: Measures = {}
    for tower, parameters in online_parameters(policy).items():
        measures[f"weight_norm/{tower}"] = weight_norm(parameters)
        if any(gradients.get(each, each.grad) is not None for each in parameters):
            measures[f"gradient_norm/{tower}"] = gradient_norm(parameters, gradients)
            measures[f"zero_gradients/{tower}"] = zero_gradient_fraction(parameters, gradients)
    return measures


def measure_ntk(policy: BasePolicy, batches: Sequence[Obs], size: int = 24) -> Measures:
    """Measure the rank of the empirical neural tangent kernel of every tower.

    :param policy: of any algorithm
    :param batches: observations of each task
    :param size: samples altogether, equally many of each task
    """
    share = max(size // len(batches), 1)
    obs = concatenate([select(batch, slice(0, share)) for batch in batches])
    with evaluating(policy), th.enable_grad():
        return {
            f"ntk_rank/{tower}": ntk_rank(outputs_T, _behind(outputs_T, policy))
            for tower, outputs_T in tower_outputs(policy, obs).items()
        }


def _behind(outputs_T: th.Tensor, policy: BasePolicy) -> list[th.Tensor]:
    """Return the parameters on which outputs depend: a tower's, and its features extractor's.

    A recurrent policy has an LSTM between the two, and an off-policy one has extractors apart.
    """
    learned = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    gradients = th.autograd.grad(outputs_T.sum(), learned, retain_graph=True, allow_unused=True)
    pairs = zip(learned, gradients, strict=True)
    return [parameter for parameter, gradient in pairs if gradient is not None]


def tower_outputs(policy: BasePolicy, obs: Obs) -> dict[str, th.Tensor]:
    """Return one scalar of each tower's output for every sample, with a graph.

    The critic's is its value; the actor's is the log-probability of the most likely action, or the
    sum of the components of a continuous one.

    :param policy: of any algorithm
    :param obs: a batch of observations
    """
    return networks_of(policy).outputs(policy.obs_to_tensor(obs)[0])
