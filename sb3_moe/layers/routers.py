"""Routers: from a token, or a task id, to a score for each expert (or slot).

Shapes: B batch, N tokens per sample, R features that the router sees, K scores, E experts.
"""

from __future__ import annotations

import math

import torch as th
from torch import nn
from torch.nn import functional as F


class LinearRouter(nn.Module):
    """Score experts or slots by a linear map without bias (the Phi of Soft MoE).

    The weight is no ``nn.Linear``, since SB3's orthogonal init would visit it.

    :param in_features: R
    :param num_scores: K, the number of experts, or experts times slots
    :param normalize: L2-normalise tokens and weights and scale by one learned number
        (arXiv 2308.00951, section 2.3)
    :param noise: standard deviation of Gaussian noise on the scores while training
    :param frozen: keep the random weights as a buffer instead of learning them: a control
    :raises ValueError: if an argument is out of range
    """

    weight_RK: th.Tensor

    def __init__(
        self,
        in_features: int,
        num_scores: int,
        *,
        normalize: bool = False,
        noise: float = 0.0,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if noise < 0:
            raise ValueError(f"`noise` must be at least 0, got {noise}")
        self.normalize = normalize
        self.noise = noise
        weight_RK = th.randn(in_features, num_scores) / math.sqrt(in_features)
        if frozen:
            self.register_buffer("weight_RK", weight_RK)
        else:
            self.weight_RK = nn.Parameter(weight_RK)
        self.scale = nn.Parameter(th.ones(())) if normalize else None

    def check_scores(self, num_scores: int, rule: str) -> None:
        """Raise ValueError unless there are that many scores; ``rule`` says why so many."""
        if self.weight_RK.shape[1] != num_scores:
            raise ValueError(
                f"`router` must have {rule} = {num_scores} scores, got {self.weight_RK.shape[1]}"
            )

    def forward(self, x_BNR: th.Tensor) -> th.Tensor:
        """Return the scores (B, N, K)."""
        weight_RK = self.weight_RK
        if self.scale is not None:
            x_BNR = x_BNR / (x_BNR.norm(dim=-1, keepdim=True) + 1e-6)
            weight_RK = self.scale * weight_RK / (weight_RK.norm(dim=0, keepdim=True) + 1e-6)
        logits_BNK = F.linear(x_BNR, weight_RK.t())
        if self.noise and self.training:
            logits_BNK = logits_BNK + self.noise * th.randn_like(logits_BNK)
        return logits_BNK
