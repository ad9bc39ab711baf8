"""The classes that options can name: routers, and what stands in an expert for a hidden layer.

Any module will do for an expert whose constructor takes (in_features, width, out_features,
activation) and options of its own, keyword-only, and which turns rows of the one width into rows of
the other.
"""

import copy
from typing import ClassVar

from torch import nn

from sb3_moe.layers.checks import whole
from sb3_moe.layers.classes import Registry
from sb3_moe.layers.encoder import Residual
from sb3_moe.layers.fixed_moe import EmbeddingMoE, TaskMoE, UniformMoE
from sb3_moe.layers.moe import MoELayer
from sb3_moe.layers.predict import PredictMoE
from sb3_moe.layers.soft_moe import RandomMoE, SoftMoE
from sb3_moe.layers.sparse_moe import ExpertChoiceMoE, SparseMoE

ROUTERS = Registry("router", MoELayer)
EXPERTS: Registry[nn.Module] = Registry("expert", nn.Module)
#: How much wider a SimBa block is inside.
INSIDE = 4


def register_router(router: type[MoELayer]) -> type[MoELayer]:
    """Let a router be called by its name; a decorator.

    :param router: the class
    :raises TypeError: if it is no MoELayer
    :raises ValueError: if another router has the name
    """
    ROUTERS.add(getattr(router, "name", ""), router)
    return router


def register_expert(kind: type[nn.Module]) -> type[nn.Module]:
    """Let a kind of expert be called by its name; a decorator.

    :param kind: the class
    :raises TypeError: if it is no module
    :raises ValueError: if another kind has the name
    """
    EXPERTS.add(getattr(kind, "name", getattr(kind, "__name__", "")), kind)
    return kind


class MLPExpert(nn.Sequential):
    """Two linear layers with an activation between.

    :cvar name: what options and files call it
    :cvar stacks: whether it is torch's own layers in a row, which are the same stacked
    :cvar uses_width: whether it has a hidden layer, whose width can be chosen
    :cvar activates: whether the dense layer's activation is in it; else it follows the sum over
        experts, as it follows the dense layer
    :param in_features: features of a token
    :param width: of the hidden layer
    :param out_features: features of the output
    :param activation: the dense layer's
    """

    name: ClassVar[str] = "mlp"
    stacks: ClassVar[bool] = True
    uses_width: ClassVar[bool] = True
    activates: ClassVar[bool] = True

    def __init__(
        self, in_features: int, width: int, out_features: int, activation: nn.Module
    ) -> None:
        super().__init__(nn.Linear(in_features, width), activation, nn.Linear(width, out_features))


class LinearExpert(nn.Sequential):
    """One linear layer: with the weights summed it is a dense layer of the tokens' own weights.

    :param in_features: features of a token
    :param width: not used
    :param out_features: features of the output
    :param activation: not used: it follows the sum over experts
    """

    name: ClassVar[str] = "linear"
    stacks: ClassVar[bool] = True
    uses_width: ClassVar[bool] = False
    activates: ClassVar[bool] = False

    def __init__(
        self, in_features: int, width: int, out_features: int, activation: nn.Module
    ) -> None:
        super().__init__(nn.Linear(in_features, out_features))


def simba_block(width: int, activation: nn.Module) -> Residual:
    """Return x + W2 act(W1 LN(x)), W1 four times as wide (SimBa, arXiv 2410.09754).

    :param width: of x
    :param activation: of which the block gets a copy
    """
    return Residual(
        nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, INSIDE * width),
            copy.deepcopy(activation),
            nn.Linear(INSIDE * width, width),
        )
    )


class SimbaExpert(nn.Sequential):
    """A linear embedding, SimBa's blocks, a normalization and a linear layer.

    :param in_features: features of a token
    :param width: of the embedding
    :param out_features: features of the output
    :param activation: the dense layer's
    :param num_blocks: how many blocks
    """

    name: ClassVar[str] = "simba"
    stacks: ClassVar[bool] = True
    uses_width: ClassVar[bool] = True
    activates: ClassVar[bool] = True

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int,
        activation: nn.Module,
        *,
        num_blocks: int = 1,
    ) -> None:
        whole("num_blocks", num_blocks)
        super().__init__(
            nn.Linear(in_features, width),
            *(simba_block(width, activation) for _ in range(num_blocks)),
            nn.LayerNorm(width),
            nn.Linear(width, out_features),
        )


for _router in (
    *(SoftMoE, SparseMoE, ExpertChoiceMoE, TaskMoE, EmbeddingMoE, PredictMoE, UniformMoE),
    RandomMoE,
):
    register_router(_router)
for _kind in (MLPExpert, LinearExpert, SimbaExpert):
    register_expert(_kind)
