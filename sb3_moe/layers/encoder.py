"""Parts of networks that torch has no module for: residual blocks, and encoders of images.

Shapes: T rows, F = C * height * width + extra input features.
"""

import math
from collections.abc import Callable, Sequence

import torch as th
from torch import Tensor, nn


class Residual(nn.Module):
    """Add a block's output to its input (He et al. 2016)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + block(x)``."""
        return x + self.block(x)


class ImageEncoder(nn.Module):
    """Convolve the image at the front of a flat input and keep the rest: (T, F) to (T, K).

    :param convs: takes (T, C, height, width)
    :param image_shape: (C, height, width) of the flattened image at the front
    """

    def __init__(self, convs: nn.Sequential, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.convs = convs
        self.image_shape = tuple(image_shape)

    def forward(self, x_TF: Tensor) -> Tensor:
        """Return ``[convs(image) | rest]``, flat."""
        return encode(self.convs, self.image_shape, x_TF)


def encode(convs: Callable[[Tensor], Tensor], image_shape: tuple[int, ...], x_TF: Tensor) -> Tensor:
    """Return ``[convs(image) | rest]`` of flat rows, flat again."""
    image, rest = split_image(x_TF, image_shape)
    return th.cat([convs(image).flatten(1), rest], 1)


def split_image(x_TF: Tensor, image_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Split flat rows into the image at the front, (T, C, height, width), and the rest."""
    num_pixels = math.prod(image_shape)
    # Not `unflatten`: ONNX would export T as a constant.
    return x_TF[:, :num_pixels].view(-1, *image_shape), x_TF[:, num_pixels:]
