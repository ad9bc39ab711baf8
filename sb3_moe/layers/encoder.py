"""The part of a network that looks at images, and passes the rest of its input by.

Shapes: T rows, F = C * height * width + extra input features, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_moe.layers.stacked import Stacked, StackedFlatten


class Residual(nn.Module):
    """Add a block's output to its input (He et al. 2016)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Return ``x + block(x)``."""
        out: th.Tensor = x + self.block(x)
        return out


class ImageEncoder(nn.Module):
    """Convolve the image at the front of a flat input and keep the rest: (T, F) to (T, K).

    :param convs: takes (T, C, height, width)
    :param image_shape: (C, height, width) of the flattened image at the front
    """

    def __init__(self, convs: nn.Sequential, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.convs = convs
        self.image_shape = tuple(image_shape)

    def forward(self, x_TF: th.Tensor) -> th.Tensor:
        """Return ``[convs(image) | rest]``, flat."""
        image, rest = split(x_TF, self.image_shape)
        encoded = self.convs(image).flatten(1)
        return th.cat([encoded, rest], dim=1) if rest.shape[1] else encoded


class StackedImageEncoder(Stacked):
    """E image encoders on the same input: (T, F) to (E, T, K).

    :param convs: the experts' stacked convolutions
    :param image_shape: (C, height, width) of the flattened image at the front
    :param num_experts: E
    """

    def __init__(self, convs: nn.Sequential, image_shape: Sequence[int], num_experts: int) -> None:
        super().__init__(num_experts)
        self.convs = convs
        self.image_shape = tuple(image_shape)
        self.flatten = StackedFlatten(num_experts)

    def shared(self, x: th.Tensor) -> th.Tensor:
        """Encode the same rows with every expert's convolutions."""
        image, rest = split(x, self.image_shape)
        encoded = self.flatten(run(self.convs, image, shared=True))
        if not rest.shape[1]:
            return encoded
        return th.cat([encoded, rest.expand(self.num_experts, *rest.shape)], dim=-1)


class StackedResidual(Stacked):
    """E residual blocks.

    :param block: the experts' stacked layers
    :param num_experts: E
    """

    def __init__(self, block: nn.Sequential, num_experts: int) -> None:
        super().__init__(num_experts)
        self.block = block

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Add each expert's block to its own input."""
        out: th.Tensor = x + self.block(x)
        return out

    def shared(self, x: th.Tensor) -> th.Tensor:
        """Add each expert's block to the same input."""
        spread = x if x.dim() == 2 else x.repeat(1, self.num_experts, 1, 1)
        return spread + run(self.block, x, shared=True)


def split(x_TF: th.Tensor, image_shape: tuple[int, ...]) -> tuple[th.Tensor, th.Tensor]:
    """Split flat rows into the image at the front, (T, C, height, width), and the rest."""
    num_pixels = math.prod(image_shape)
    # ONNX takes T for a constant after `unflatten`.
    return x_TF[:, :num_pixels].view(-1, *image_shape), x_TF[:, num_pixels:]


def run(layers: nn.Sequential, x: th.Tensor, *, shared: bool) -> th.Tensor:
    """Apply stacked layers one after another; the first spreads a shared input over experts."""
    for layer in layers:
        if shared and isinstance(layer, Stacked):
            x, shared = layer.shared(x), False
        else:
            x = layer(x)
    return x
