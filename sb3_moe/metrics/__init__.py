"""Metrics of multi-task and continual learning, on plain arrays."""

from sb3_moe.metrics.aggregate import (
    Estimate,
    Interval,
    bootstrap_interval,
    holm,
    iqm,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)
from sb3_moe.metrics.continual import (
    average_performance,
    backward_transfer_gem,
    forgetting_coom,
    forgetting_cw,
    forgetting_isolated,
    forgetting_per_task,
    forward_transfer,
    forward_transfer_per_task,
    interleaved_area,
    zero_shot_transfer_gem,
)
from sb3_moe.metrics.curves import (
    Block,
    Scores,
    area,
    block_ends,
    blocks_of,
    load_scores,
    score_at,
)
from sb3_moe.metrics.normalise import normalise
from sb3_moe.metrics.returns import random_returns, reference_returns
from sb3_moe.metrics.revisits import area_ratios, final_ratios, plasticity_loss
from sb3_moe.metrics.specialisation import agreement, load_entropy, specialisation

__all__ = [
    "Block",
    "Estimate",
    "Interval",
    "Scores",
    "agreement",
    "area",
    "area_ratios",
    "average_performance",
    "backward_transfer_gem",
    "block_ends",
    "blocks_of",
    "bootstrap_interval",
    "final_ratios",
    "forgetting_coom",
    "forgetting_cw",
    "forgetting_isolated",
    "forgetting_per_task",
    "forward_transfer",
    "forward_transfer_per_task",
    "holm",
    "interleaved_area",
    "iqm",
    "load_entropy",
    "load_scores",
    "normalise",
    "paired_difference",
    "performance_profile",
    "plasticity_loss",
    "probability_of_improvement",
    "random_returns",
    "reference_returns",
    "score_at",
    "specialisation",
    "stratified_interval",
    "zero_shot_transfer_gem",
]
