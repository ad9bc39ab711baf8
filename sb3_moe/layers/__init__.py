"""Mixture-of-experts layers on plain torch, with the experts' weights stacked."""

from sb3_moe.layers.aux_loss import AuxCoefs
from sb3_moe.layers.experts import StackedNetwork, mlp_experts
from sb3_moe.layers.memory import keep_freed_memory
from sb3_moe.layers.moe import MoELayer, TaskMoE, UniformMoE
from sb3_moe.layers.routers import LinearRouter
from sb3_moe.layers.routing import Routing
from sb3_moe.layers.soft_moe import SoftMoE
from sb3_moe.layers.sparse_moe import ExpertChoiceMoE, SparseMoE

__all__ = [
    "AuxCoefs",
    "ExpertChoiceMoE",
    "LinearRouter",
    "MoELayer",
    "Routing",
    "SoftMoE",
    "SparseMoE",
    "StackedNetwork",
    "TaskMoE",
    "UniformMoE",
    "keep_freed_memory",
    "mlp_experts",
]
