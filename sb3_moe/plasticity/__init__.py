"""Whether a network can still learn (dormant neurons, ranks, norms), and remedies."""

from sb3_moe.plasticity.activations import Activations, as_ETHP, recording
from sb3_moe.plasticity.dormant import (
    TAUS,
    dormant_fraction,
    dormant_fraction_per_expert,
    dormant_mask,
    dormant_scores,
)
from sb3_moe.plasticity.gradient_activity import gradient_activity, measure_gradients
from sb3_moe.plasticity.hidden_layers import HiddenLayer, hidden_layers
from sb3_moe.plasticity.measure import measure_layers, measure_ntk, measure_weights
from sb3_moe.plasticity.mixtures import expert_outputs
from sb3_moe.plasticity.probe import policy_activations
from sb3_moe.plasticity.rank import effective_rank, empirical_ntk, ntk_rank, stable_rank
from sb3_moe.plasticity.redo import redo
from sb3_moe.plasticity.resets import reset_heads, reset_optimizers, shrink_and_perturb
from sb3_moe.plasticity.weights import (
    gradient_norm,
    weight_change,
    weight_norm,
    zero_gradient_fraction,
)

__all__ = [
    "TAUS",
    "Activations",
    "HiddenLayer",
    "as_ETHP",
    "dormant_fraction",
    "dormant_fraction_per_expert",
    "dormant_mask",
    "dormant_scores",
    "effective_rank",
    "empirical_ntk",
    "expert_outputs",
    "gradient_activity",
    "gradient_norm",
    "hidden_layers",
    "measure_gradients",
    "measure_layers",
    "measure_ntk",
    "measure_weights",
    "ntk_rank",
    "policy_activations",
    "recording",
    "redo",
    "reset_heads",
    "reset_optimizers",
    "shrink_and_perturb",
    "stable_rank",
    "weight_change",
    "weight_norm",
    "zero_gradient_fraction",
]
