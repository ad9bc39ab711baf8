"""What stands in one expert in place of a hidden layer: a class for each kind.

Any module will do whose constructor takes (in_features, width, out_features, activation) and
options of its own, keyword-only, and which turns rows of the one width into rows of the other.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sb3_moe.layers.classes import Registry
from sb3_moe.layers.simba import SimbaExpert


class MLPExpert(nn.Sequential):
    """Two linear layers with an activation between.

    :cvar name: how options and files call it
    :cvar stacks: whether its layers, with any activation, are known to be the same stacked; those
        of other kinds are where they are torch's own, in a row
    :cvar uses_width: whether it has a hidden layer, whose width can be chosen
    :cvar activates: whether the dense layer's activation is in it; else it follows the sum over
        experts, as it follows the dense layer
    :cvar copies_dense: whether it does what the dense layer does once its first linear layer has
        the dense one's weights and every other hands on what it gets
    :param in_features: features of a token
    :param width: of the hidden layer
    :param out_features: features of the output
    :param activation: the dense layer's
    """

    name: ClassVar[str] = "mlp"
    stacks: ClassVar[bool] = True
    uses_width: ClassVar[bool] = True
    activates: ClassVar[bool] = True
    copies_dense: ClassVar[bool] = True

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
    copies_dense: ClassVar[bool] = True

    def __init__(
        self, in_features: int, width: int, out_features: int, activation: nn.Module
    ) -> None:
        super().__init__(nn.Linear(in_features, out_features))


EXPERTS: Registry[nn.Module] = Registry("expert", nn.Module)


def register_expert(kind: type[nn.Module]) -> type[nn.Module]:
    """Let a kind of expert be called by its name; a decorator.

    :param kind: the class
    :raises TypeError: if it is no module
    :raises ValueError: if another kind has the name
    """
    EXPERTS.add(getattr(kind, "name", getattr(kind, "__name__", "")), kind)
    return kind


for _kind in (MLPExpert, LinearExpert, SimbaExpert):
    register_expert(_kind)
