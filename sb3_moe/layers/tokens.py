"""How a sample becomes tokens, and how features are appended to each of them.

Shapes: B batch, N tokens, D features of a bare token, X features that are appended to each token
(a task's one-hot, a critic's action), C channels, H height, W width of a feature map.
"""

from typing import Literal

import torch as th
from torch import Tensor

TokenKind = Literal["sample", "conv", "feature"]


def token_shape(kind: TokenKind, map_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return (N, D) of the tokens of a feature map (arXiv 2402.08609, section 3).

    :param kind: ``"conv"``, a token per position, or ``"feature"``, a token per channel
    :param map_shape: (C, H, W)
    """
    channels, height, width = map_shape
    positions = height * width
    return (positions, channels) if kind == "conv" else (channels, positions)


def tokenize(kind: TokenKind, x_BF: Tensor, map_shape: tuple[int, int, int]) -> Tensor:
    """Split a flattened feature map (B, C*H*W) into tokens (B, N, D)."""
    channels, height, width = map_shape
    x_BCP = x_BF.view(x_BF.shape[0], channels, height * width)
    return x_BCP.transpose(1, 2) if kind == "conv" else x_BCP


def append_to_each(x: Tensor, extra_BX: Tensor | None) -> Tensor:
    """Append the same features to every token of a sample: (B, D + X) or (B, N, D + X)."""
    if extra_BX is None:
        return x
    if x.dim() == 3:
        extra_BX = extra_BX.unsqueeze(1).expand(-1, x.shape[1], -1)
    return th.cat([x, extra_BX], -1)
