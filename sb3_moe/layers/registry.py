"""The routers that have a name: this package's, and those that a user adds."""

from __future__ import annotations

from sb3_moe.layers.classes import Registry
from sb3_moe.layers.embedding_moe import EmbeddingMoE
from sb3_moe.layers.expert_choice_moe import ExpertChoiceMoE
from sb3_moe.layers.moe import MoELayer
from sb3_moe.layers.random_moe import RandomMoE
from sb3_moe.layers.soft_moe import SoftMoE
from sb3_moe.layers.sparse_moe import SparseMoE
from sb3_moe.layers.task_moe import TaskMoE
from sb3_moe.layers.uniform_moe import UniformMoE

ROUTERS = Registry("router", MoELayer)


def register_router(router: type[MoELayer]) -> type[MoELayer]:
    """Let a router be called by its name; a decorator.

    :param router: the class
    :raises TypeError: if it is no MoELayer
    :raises ValueError: if another router has the name
    """
    ROUTERS.add(getattr(router, "name", ""), router)
    return router


for _router in (SoftMoE, SparseMoE, ExpertChoiceMoE, TaskMoE, EmbeddingMoE, UniformMoE, RandomMoE):
    register_router(_router)
