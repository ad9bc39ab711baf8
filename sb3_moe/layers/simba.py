"""SimBa's blocks (arXiv 2410.09754): layers with a way around them, behind a normalisation."""

from __future__ import annotations

import copy
from typing import ClassVar

from torch import nn

from sb3_moe.layers.checks import whole
from sb3_moe.layers.encoder import Residual

#: How much wider a block is inside.
INSIDE = 4


def simba_block(width: int, activation: nn.Module) -> Residual:
    """Return x + W2 act(W1 LN(x)), W1 four times as wide.

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


def simba_layer(
    in_features: int, width: int, activation: nn.Module, *, first: bool
) -> list[nn.Module]:
    """Return what stands for a dense hidden layer: a block, behind a linear map where it needs one.

    :param in_features: of what comes in
    :param width: of the layer
    :param activation: the dense layer's
    :param first: whether no block stands before it
    """
    embedding = [nn.Linear(in_features, width)] if first or in_features != width else []
    return [*embedding, simba_block(width, activation)]


class SimbaExpert(nn.Sequential):
    """A linear embedding, blocks, a normalisation and a linear layer.

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
    copies_dense: ClassVar[bool] = False

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
