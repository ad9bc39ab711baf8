"""Dormant neurons (Sokar et al. 2023, arXiv 2302.12902), for dense and for stacked layers.

Shapes: E experts (1 for a dense layer), H units. An activity is the mean absolute activation of a
unit over a batch (and over positions, for a feature map).
"""

from __future__ import annotations

import torch as th

from sb3_moe.layers.checks import not_negative

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
