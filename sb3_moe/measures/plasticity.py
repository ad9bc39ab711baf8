"""Whether a network can still learn: dormant neurons and ranks.

Dormant neurons are those of Sokar et al. 2023 (arXiv 2302.12902), for dense and stacked layers. An
activity is the mean absolute activation of a unit over a batch, and over positions.

Shapes: N tasks, E experts (1 for a dense layer), H units, T rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_moe.layers.checks import not_negative
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.measures.activations import Activations, policy_activations
from sb3_moe.policies.networks import networks_of
from sb3_moe.vec_env.observations import Obs, concatenate, select

#: The thresholds at which neurons count as dormant; the first is the one of figures.
TAUS = (0.025, 0.0, 0.1)


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
    not_negative("tau", tau)
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
    not_negative("tau", tau)
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


def ntk_rank(outputs_T: th.Tensor, parameters: Sequence[th.Tensor]) -> float:
    """Return the effective rank of the empirical neural tangent kernel on a batch.

    It falls when samples can no longer be told apart by a gradient step (Lyle et al. 2023,
    arXiv 2303.01486).

    :param outputs_T: one scalar per sample, with a graph
    :param parameters: what to differentiate by; those without influence count as zero
    :return: as of :func:`effective_rank`
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    rows = []
    for output in outputs_T:
        gradients = th.autograd.grad(
            output, wanted, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(th.cat([gradient.flatten() for gradient in gradients]))
    jacobian = th.stack(rows).double()
    return effective_rank(jacobian @ jacobian.T)


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


def measure_ntk(policy: BasePolicy, batches: Sequence[Obs], size: int = 24) -> Measures:
    """Measure the rank of the empirical neural tangent kernel of every network.

    :param policy: of any algorithm
    :param batches: observations of each task
    :param size: samples altogether, equally many of each task
    """
    share = max(size // len(batches), 1)
    obs = concatenate([select(batch, slice(0, share)) for batch in batches])
    with evaluating(policy), th.enable_grad():
        outputs = networks_of(policy).outputs(policy.obs_to_tensor(obs)[0])
        return {
            f"ntk_rank/{network}": ntk_rank(outputs_T, _behind(outputs_T, policy))
            for network, outputs_T in outputs.items()
        }


def _behind(outputs_T: th.Tensor, policy: BasePolicy) -> list[th.Tensor]:
    """Return the parameters on which outputs depend: a network's, and its features extractor's.

    A recurrent policy has an LSTM between the two, and an off-policy one has extractors apart.
    """
    learned = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    gradients = th.autograd.grad(outputs_T.sum(), learned, retain_graph=True, allow_unused=True)
    pairs = zip(learned, gradients, strict=True)
    return [parameter for parameter, gradient in pairs if gradient is not None]
