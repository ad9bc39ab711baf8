"""Mixture-of-experts layers on plain torch, with the experts' weights stacked."""

from sb3_moe.layers.aux_loss import AuxCoefs
from sb3_moe.layers.embedding_moe import EmbeddingMoE
from sb3_moe.layers.expert_choice_moe import ExpertChoiceMoE
from sb3_moe.layers.expert_kinds import LinearExpert, MLPExpert, register_expert
from sb3_moe.layers.experts import Experts, SeparateNetworks, StackedNetwork, mlp_experts
from sb3_moe.layers.memory import keep_freed_memory
from sb3_moe.layers.moe import MoELayer, RouterInput
from sb3_moe.layers.random_moe import RandomMoE
from sb3_moe.layers.registry import register_router
from sb3_moe.layers.routers import LinearRouter, MLPRouter
from sb3_moe.layers.routing import Routing
from sb3_moe.layers.simba import SimbaExpert
from sb3_moe.layers.soft_moe import SoftMoE
from sb3_moe.layers.sparse_moe import SparseMoE
from sb3_moe.layers.task_moe import TaskMoE
from sb3_moe.layers.uniform_moe import UniformMoE

__all__ = [
    "AuxCoefs",
    "EmbeddingMoE",
    "ExpertChoiceMoE",
    "Experts",
    "LinearExpert",
    "LinearRouter",
    "MLPExpert",
    "MLPRouter",
    "MoELayer",
    "RandomMoE",
    "RouterInput",
    "Routing",
    "SeparateNetworks",
    "SimbaExpert",
    "SoftMoE",
    "SparseMoE",
    "StackedNetwork",
    "TaskMoE",
    "UniformMoE",
    "keep_freed_memory",
    "mlp_experts",
    "register_expert",
    "register_router",
]
