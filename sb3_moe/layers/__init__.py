"""Mixture-of-experts layers on plain torch, with the experts' weights stacked."""

from sb3_moe.layers.aux_loss import AuxCoefs
from sb3_moe.layers.experts import Experts, SeparateNetworks, StackedNetwork
from sb3_moe.layers.fixed_moe import BeliefMoE, EmbeddingMoE, TaskMoE, UniformMoE
from sb3_moe.layers.moe import MoELayer, RouterInput
from sb3_moe.layers.registry import (
    LinearExpert,
    MLPExpert,
    SimbaExpert,
    register_expert,
    register_router,
)
from sb3_moe.layers.routing import Routing
from sb3_moe.layers.scores import LinearScores, ScoredMoE
from sb3_moe.layers.soft_moe import RandomMoE, SoftMoE
from sb3_moe.layers.sparse_moe import ExpertChoiceMoE, SparseMoE

__all__ = [
    "AuxCoefs",
    "BeliefMoE",
    "EmbeddingMoE",
    "ExpertChoiceMoE",
    "Experts",
    "LinearExpert",
    "LinearScores",
    "MLPExpert",
    "MoELayer",
    "RandomMoE",
    "RouterInput",
    "Routing",
    "ScoredMoE",
    "SeparateNetworks",
    "SimbaExpert",
    "SoftMoE",
    "SparseMoE",
    "StackedNetwork",
    "TaskMoE",
    "UniformMoE",
    "register_expert",
    "register_router",
]
