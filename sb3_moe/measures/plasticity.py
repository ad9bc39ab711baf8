"""Whether a network can still learn: dormant neurons, ranks, and sizes of weights and gradients.

Dormant neurons are those of Sokar et al. 2023 (arXiv 2302.12902), for dense and stacked layers. An
activity is the mean absolute activation of a unit over a batch, and over positions.

Shapes: N tasks, E experts (1 for a dense layer), H units, T rows, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_moe.layers.checks import not_negative
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.measures.activations import Activations, online_parameters, policy_activations
from sb3_moe.policies.networks import networks_of
from sb3_moe.vec_env.observations import Obs, concatenate, select

#: The thresholds at which neurons count as dormant; the first is the one of figures.
TAUS = (0.025, 0.0, 0.1)


def check_tau(tau: float) -> None:
    """Refuse a threshold that no score can reach.

    :raises TypeError: if ``tau`` is no number
    :raises ValueError: if it is negative or not finite
    """
    not_negative("tau", tau)


def dormant_scores(activity_EH: th.Tensor) -> th.Tensor:
    """Return each unit's activity relative to the mean of the whole layer (eq. 1).

    All units of all experts count as one layer. A layer that is silent has only zeros; one of which
    any activity is not finite, as of a network that diverged, only NaN.

    :param activity_EH: mean absolute activations, (E, H) or (H,)
    """
    mean = activity_EH.mean()
    scores_EH = (activity_EH / mean).masked_fill(mean == 0, 0.0)
    return scores_EH.masked_fill(~mean.isfinite(), float("nan"))


def dormant_mask(activity_EH: th.Tensor, tau: float) -> th.Tensor:
    """Tell which units are dormant at a threshold; none of a layer whose scores are NaN.

    :param activity_EH: mean absolute activations
    :param tau: units whose score is at most this are dormant
    :raises ValueError: if ``tau`` is negative
    """
    check_tau(tau)
    return dormant_scores(activity_EH) <= tau


def dormant_fraction(activity_EH: th.Tensor, tau: float = 0.0) -> float:
    """Return the share of dormant units, pooled over the layer: the primary measure.

    Given ``Activations.gated_activity_EH`` it is the gate-weighted one, in which an expert that
    reaches no output counts as dormant.

    :param activity_EH: mean absolute activations
    :param tau: units whose score is at most this are dormant
    :return: between 0 and 1; NaN if any activity is not finite
    :raises ValueError: if ``tau`` is negative
    """
    check_tau(tau)
    scores_EH = dormant_scores(activity_EH)
    asleep_EH = (scores_EH <= tau).double().masked_fill(scores_EH.isnan(), float("nan"))
    return float(asleep_EH.mean())


def dormant_fraction_per_expert(activity_EH: th.Tensor, tau: float = 0.0) -> th.Tensor:
    """Return each expert's share of units that are dormant beside the same expert's other units.

    It does not show an expert that is quiet as a whole; the pooled measure does.

    :param activity_EH: mean absolute activations
    :param tau: units whose score is at most this are dormant
    :raises ValueError: if ``tau`` is negative
    :return: (E,), NaN for an expert of which any activity is not finite
    """
    return th.tensor([dormant_fraction(activity_H, tau) for activity_H in activity_EH])


def effective_rank(features_TF: th.Tensor) -> float:
    """Return exp(entropy) of the singular values, scaled to sum to 1 (Roy and Vetterli 2007).

    :param features_TF: one row per sample
    :return: between 1 and min(T, F); 0 if all features are zero, NaN if one is not finite
    """
    values = _singular_values(features_TF)
    if values.sum() == 0:
        return 0.0
    shares = values / values.sum()
    return float(th.special.entr(shares).sum().exp())


def stable_rank(features_TF: th.Tensor) -> float:
    """Return the squared Frobenius norm over the squared spectral norm.

    :param features_TF: one row per sample
    :return: between 1 and min(T, F); 0 if all features are zero, NaN if one is not finite
    """
    squares = _singular_values(features_TF).square()
    return 0.0 if squares.max() == 0 else float(squares.sum() / squares.max())


def _singular_values(features_TF: th.Tensor) -> th.Tensor:
    """Return them as doubles; NaN of what is not finite, at which LAPACK fails."""
    if features_TF.dim() != 2 or 0 in features_TF.shape:
        raise ValueError(
            "`features_TF` must be a matrix with at least one row and one column, got shape "
            f"{tuple(features_TF.shape)}"
        )
    matrix_TF = features_TF.detach().double()
    values = th.linalg.svdvals(matrix_TF.nan_to_num(0.0, 0.0, 0.0))
    return values.masked_fill(~matrix_TF.isfinite().all(), float("nan"))


def empirical_ntk(outputs_T: th.Tensor, parameters: Sequence[th.Tensor]) -> th.Tensor:
    """Return the inner products of the gradients of each output.

    :param outputs_T: one scalar per sample, with a graph
    :param parameters: what to differentiate by; those without influence count as zero
    :return: (T, T), double
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    rows = [
        th.cat(
            [
                gradient.flatten()
                for gradient in th.autograd.grad(
                    output, wanted, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            ]
        )
        for output in outputs_T
    ]
    jacobian = th.stack(rows).double()
    return jacobian @ jacobian.T


def ntk_rank(outputs_T: th.Tensor, parameters: Sequence[th.Tensor]) -> float:
    """Return the effective rank of the empirical neural tangent kernel on a batch.

    It falls when samples can no longer be told apart by a gradient step (Lyle et al. 2023,
    arXiv 2303.01486).

    :param outputs_T: one scalar per sample, with a graph
    :param parameters: what to differentiate by
    :return: as of :func:`effective_rank`
    """
    return effective_rank(empirical_ntk(outputs_T, parameters))


NOT_KEPT: Mapping[th.Tensor, th.Tensor | None] = MappingProxyType({})


def weight_norm(parameters: Iterable[th.Tensor]) -> float:
    """Return the L2 norm of all weights together."""
    return _norm([parameter.detach() for parameter in parameters])


def weight_change(parameters: Iterable[th.Tensor], before: Iterable[th.Tensor]) -> float:
    """Return the L2 norm of how far the weights moved.

    :param parameters: now
    :param before: earlier copies, in the same order
    :raises ValueError: if the numbers of tensors differ
    """
    pairs = zip(parameters, before, strict=True)
    return _norm([parameter.detach() - old for parameter, old in pairs])


def gradient_norm(
    parameters: Iterable[th.Tensor], gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT
) -> float:
    """Return the L2 norm of all gradients together; parameters without one count as zero.

    :param parameters: whose gradients
    :param gradients: of some of them, in place of what their ``.grad`` holds
    """
    found = [gradients.get(parameter, parameter.grad) for parameter in parameters]
    return _norm([gradient for gradient in found if gradient is not None])


def zero_gradient_fraction(
    parameters: Iterable[th.Tensor], gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT
) -> float:
    """Return the share of weights whose gradient is exactly zero, or missing.

    :param parameters: whose gradients
    :param gradients: of some of them, in place of what their ``.grad`` holds
    :raises ValueError: if there are no parameters
    """
    zeros = total = 0
    for parameter in parameters:
        total += parameter.numel()
        gradient = gradients.get(parameter, parameter.grad)
        moved = 0 if gradient is None else int(gradient.count_nonzero())
        zeros += parameter.numel() - moved
    if total == 0:
        raise ValueError("`parameters` must hold at least one weight, got none")
    return zeros / total


def _norm(tensors: list[th.Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(th.linalg.vector_norm(th.stack([th.linalg.vector_norm(t) for t in tensors])))


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

    Gradients are those of the last update, after clipping. Where a critic has an optimizer of its
    own, its ``.grad`` holds what the actor's loss left there too: give what
    :class:`~sb3_moe.measures.gradients.CriticGradients` kept.

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
