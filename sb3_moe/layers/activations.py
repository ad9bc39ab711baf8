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


def is_norm(module: nn.Module) -> bool:
    """Say whether a module is a normalization: it has its number of features as an attribute."""
    return hasattr(module, "num_features") or hasattr(module, "normalized_shape")
