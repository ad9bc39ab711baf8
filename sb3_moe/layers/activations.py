"""Tell activations from normalizations, and list the modules that act on each number alone.

The rule follows from how SB3 builds a network (``create_mlp``): a normalization is constructed with
the number of features that it normalizes, and keeps it as an attribute; an activation is
constructed without arguments.
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
# Modules that treat every number alike, whichever expert it belongs to.
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
# With pooling layers, which treat every channel of an image alike.
ALIKE_FOR_ALL = (*ALIKE_ON_ROWS, nn.AvgPool2d, nn.MaxPool2d)


def is_norm(module: nn.Module) -> bool:
    """Say whether a module is a normalization: it has its number of features as an attribute."""
    return hasattr(module, "num_features") or hasattr(module, "normalized_shape")


def is_alike_for_all(module: nn.Module) -> bool:
    """Say whether one module can act on all experts' values at once.

    A user's own class can't, even if it derives from one of :data:`ALIKE_FOR_ALL`: each expert then
    has its own copy of the module.
    """
    return type(module) in ALIKE_FOR_ALL
