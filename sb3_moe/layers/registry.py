"""The classes that options can name: routers, and kinds of experts.

An expert can be any module that turns rows of ``in_features`` into rows of ``out_features``, and
whose constructor takes (in_features, width, out_features, activation), and options of its own as
keyword-only arguments.
"""

import copy

from torch import nn

from sb3_moe.layers.checks import whole
from sb3_moe.layers.classes import Registry
from sb3_moe.layers.encoder import Residual
from sb3_moe.layers.fixed_moe import BeliefMoE, EmbeddingMoE, TaskMoE, UniformMoE
from sb3_moe.layers.moe import MoELayer
from sb3_moe.layers.soft_moe import RandomMoE, SoftMoE
from sb3_moe.layers.sparse_moe import ExpertChoiceMoE, SparseMoE

ROUTERS = Registry("router", MoELayer)
EXPERTS = Registry("expert", nn.Module)
#: How much wider a SimBa block is inside.
INSIDE = 4


def register_router(router: type[MoELayer]) -> type[MoELayer]:
    """Let options name a router: a decorator of its class.

    :param router: the class
    :raises TypeError: if it is no MoELayer
    """
    ROUTERS.add(getattr(router, "name", ""), router)
    return router


def register_expert(kind: type[nn.Module]) -> type[nn.Module]:
    """Let options name a kind of expert: a decorator of its class.

    :param kind: the class
    :raises TypeError: if it is no module
    """
    EXPERTS.add(getattr(kind, "name", getattr(kind, "__name__", "")), kind)
    return kind


class MLPExpert(nn.Sequential):
    """Two linear layers with an activation between.

    :cvar name: its name in options and files
    :cvar stacks: whether it is a sequence of torch's own layers, so that experts can be stacked
    :cvar uses_width: whether it has a hidden layer, whose width can be chosen
    :cvar activates: whether it contains the dense layer's activation; if not, the activation
        follows the sum over experts
    :param in_features: features of a token
    :param width: width of the hidden layer
    :param out_features: features of the output
    :param activation: activation of the dense layer
    """

    name = "mlp"
    stacks = True
    uses_width = True
    activates = True

    def __init__(
        self, in_features: int, width: int, out_features: int, activation: nn.Module
    ) -> None:
        super().__init__(nn.Linear(in_features, width), activation, nn.Linear(width, out_features))


class LinearExpert(nn.Sequential):
    """One linear layer: a gated sum of them is a linear layer whose weights depend on the token.

    :param in_features: features of a token
    :param width: not used
    :param out_features: features of the output
    :param activation: not used, since it follows the sum over experts
    """

    name = "linear"
    stacks = True
    uses_width = False
    activates = False

    def __init__(
        self, in_features: int, width: int, out_features: int, activation: nn.Module
    ) -> None:
        super().__init__(nn.Linear(in_features, out_features))


def simba_block(width: int, activation: nn.Module) -> Residual:
    """Return x + W2 act(W1 LN(x)), W1 four times as wide (SimBa, arXiv 2410.09754).

    :param width: width of x
    :param activation: the activation, of which the block gets a copy
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
    :param width: width of the embedding
    :param out_features: features of the output
    :param activation: activation of the dense layer
    :param num_blocks: number of blocks
    """

    name = "simba"
    stacks = True
    uses_width = True
    activates = True

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
    SoftMoE,
    SparseMoE,
    ExpertChoiceMoE,
    TaskMoE,
    EmbeddingMoE,
    BeliefMoE,
    UniformMoE,
    RandomMoE,
):
    register_router(_router)
for _kind in (MLPExpert, LinearExpert, SimbaExpert):
    register_expert(_kind)
