"""What is an activation and what a normalization, and which act on each number alone.

The rule for both follows from how SB3 builds a network (``create_mlp``): a normalization is made
with the number of features that it normalizes, and knows it; an activation is made with nothing.
"""

from torch import nn

# Functions of one number, without state, that networks have between their layers.
POINTWISE = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
# What does to each number the same whoever's it is.
ALIKE_ON_ROWS = (
    *POINTWISE,
    nn.Dropout,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Identity,
    nn.LogSigmoid,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.Threshold,
)
# And to each channel of a picture.
ALIKE_FOR_ALL = (*ALIKE_ON_ROWS, nn.AvgPool2d, nn.MaxPool2d)


def is_norm(module: nn.Module) -> bool:
    """Tell a normalization, which knows how many features it has, from an activation."""
    return hasattr(module, "num_features") or hasattr(module, "normalized_shape")


def is_alike_for_all(module: nn.Module) -> bool:
    """Say whether one module can act on all experts' values at once.

    A class of the user's own can't, even if derived from one of these: an expert's values then go
    through a copy of its own, as through the activation of a dense layer.
    """
    return type(module) in ALIKE_FOR_ALL
