"""A learned vector for each task in place of its one-hot.

Shapes: B batch, K tasks, W width.
"""

from __future__ import annotations

import math

import torch as th
from torch import nn


class TaskEmbedding(nn.Module):
    """A row for each task, which starts about as long as a one-hot.

    A tower holds it behind all else, and runs it first: files keep optimisers' states by the order
    in which parameters are held. Whoever goes along a tower's modules leaves it out.

    :param num_tasks: K
    :param width: W
    """

    def __init__(self, num_tasks: int, width: int) -> None:
        super().__init__()
        self.weight_KW = nn.Parameter(th.randn(num_tasks, width) / math.sqrt(width))

    def forward(self, onehot_BK: th.Tensor) -> th.Tensor:
        """Return each task's row, whatever a normaliser made of the one-hot: (B, W)."""
        return self.weight_KW[onehot_BK.argmax(dim=-1)]
