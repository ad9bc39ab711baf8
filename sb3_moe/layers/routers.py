"""Routers: from a token, or a task id, to a score for each expert (or slot).

Shapes: B batch, N tokens per sample, R features that the router sees, K scores, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_moe.layers.checks import not_negative, widths, yes_or_no
from sb3_moe.layers.tracing import is_watched

# So small are scores that all gates are as good as alike, and still tell which is the largest.
FAINT = 1e-6


class ScoreRouter(nn.Module):
    """What gives experts or slots scores.

    :param num_scores: K
    """

    def __init__(self, num_scores: int) -> None:
        super().__init__()
        self.num_scores = num_scores

    def as_matrix(self) -> th.Tensor | None:
        """Return the weights (R, K) where a product with them is all there is to the scores."""
        return None

    def by_score(self) -> dict[str, int]:
        """Return the tensors that hold something for each score, and on which axis."""
        return {}

    @property
    def bias(self) -> th.Tensor | None:
        """What is added to each score whatever the token, (K,); None: nothing can be."""
        return None

    def above_mean(self, num_experts: int) -> th.Tensor:
        """Say how far the mean of all experts' weights may score above the mean of all scores.

        :return: for each of an expert's scores, (S,)
        """
        return th.zeros(self.num_scores // num_experts)

    def check_scores(self, num_scores: int, rule: str) -> None:
        """Raise ValueError unless there are that many scores; ``rule`` says why so many."""
        if self.num_scores != num_scores:
            raise ValueError(
                f"`router` must have {rule} = {num_scores} scores, got {self.num_scores}"
            )

    def soften(self, factor: float) -> None:
        """Multiply the scores of every token by a number, in the weights."""
        raise NotImplementedError


class LinearRouter(ScoreRouter):
    """Score experts or slots by a linear map without bias (the Phi of Soft MoE).

    The weight is no ``nn.Linear``, since SB3's orthogonal init would visit it.

    :param in_features: R
    :param num_scores: K, the number of experts, or experts times slots
    :param normalize: L2-normalise tokens and weights and scale by one learned number
        (arXiv 2308.00951, section 2.3)
    :param noise: standard deviation of Gaussian noise on the scores while training
    :param frozen: keep the random weights as a buffer instead of learning them: a control
    :param bias: add a number to each score, 0 at first
    :raises ValueError: if an argument is out of range
    """

    weight_RK: th.Tensor
    bias_K: th.Tensor | None
    learns_scale: bool = True

    def __init__(
        self,
        in_features: int,
        num_scores: int,
        *,
        normalize: bool = False,
        noise: float = 0.0,
        frozen: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(num_scores)
        if noise < 0:
            raise ValueError(f"`noise` must be at least 0, got {noise}")
        self.normalize = normalize
        self.noise = noise
        weight_RK = th.randn(in_features, num_scores) / math.sqrt(in_features)
        bias_K = th.zeros(num_scores) if bias else None
        if frozen:
            self.register_buffer("weight_RK", weight_RK)
            self.register_buffer("bias_K", bias_K)
        else:
            self.weight_RK = nn.Parameter(weight_RK)
            self.bias_K = None if bias_K is None else nn.Parameter(bias_K)
        # A parameter even if frozen, as optimisers of older files count it among theirs.
        self.scale = nn.Parameter(th.ones(())) if normalize else None
        if frozen:
            self.learns_scale = False

    @th.no_grad()
    def soften(self, factor: float) -> None:
        """Multiply the scale where there is one: the weights' size makes no difference there."""
        (self.weight_RK if self.scale is None else self.scale).mul_(factor)
        if self.bias_K is not None:
            self.bias_K.mul_(factor)

    def by_score(self) -> dict[str, int]:
        """Name weights and biases."""
        return {"weight_RK": 1} | ({} if self.bias_K is None else {"bias_K": 0})

    @property
    def bias(self) -> th.Tensor | None:
        """Return the biases."""
        return self.bias_K

    def above_mean(self, num_experts: int) -> th.Tensor:
        """Compare directions: that of the mean with the mean of all, which is shorter."""
        weight_RES = self.weight_RK.unflatten(1, (num_experts, -1))
        if self.scale is None:
            return weight_RES.new_zeros(weight_RES.shape[-1])
        mean_RS = weight_RES.mean(1)
        directions_RES = weight_RES / (weight_RES.norm(dim=0) + 1e-6)
        direction_RS = mean_RS / (mean_RS.norm(dim=0) + 1e-6)
        return self.scale.abs() * (direction_RS - directions_RES.mean(1)).norm(dim=0)

    def as_matrix(self) -> th.Tensor | None:
        """Return the weights (R, K) where a product with them is all there is to the scores."""
        if self.normalize or self.bias_K is not None or (self.noise and self.training):
            return None
        if type(self) is not LinearRouter or is_watched(self):
            return None
        return self.weight_RK

    def forward(self, x_BNR: th.Tensor) -> th.Tensor:
        """Return the scores (B, N, K)."""
        weight_RK = self.weight_RK
        if self.scale is not None:
            x_BNR = x_BNR / (x_BNR.norm(dim=-1, keepdim=True) + 1e-6)
            scale = self.scale if self.learns_scale else self.scale.detach()
            weight_RK = scale * weight_RK / (weight_RK.norm(dim=0, keepdim=True) + 1e-6)
        logits_BNK = F.linear(x_BNR, weight_RK.t(), self.bias_K)
        if self.noise and self.training:
            logits_BNK = logits_BNK + self.noise * th.randn_like(logits_BNK)
        return logits_BNK


class MLPRouter(ScoreRouter):
    """Score experts or slots by hidden layers with ReLU and a :class:`LinearRouter` behind them.

    :param in_features: R
    :param hidden: widths of the hidden layers
    :param num_scores: K
    :param frozen: keep all weights as buffers instead of learning them: a control
    :param kwargs: other arguments of the linear router
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        num_scores: int,
        *,
        frozen: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_scores)
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU()]
            in_features = width
        self.hidden = nn.Sequential(*layers)
        self.last = LinearRouter(in_features, num_scores, frozen=frozen, **kwargs)
        if frozen:
            for layer in layers[::2]:
                _freeze(layer)

    def soften(self, factor: float) -> None:
        """Multiply the last layer's scores."""
        self.last.soften(factor)

    def by_score(self) -> dict[str, int]:
        """Name those of the last layer."""
        return {f"last.{name}": axis for name, axis in self.last.by_score().items()}

    def above_mean(self, num_experts: int) -> th.Tensor:
        """Compare those of the last layer."""
        return self.last.above_mean(num_experts)

    @property
    def bias(self) -> th.Tensor | None:
        """Return the last layer's biases."""
        return self.last.bias

    def forward(self, x_BNR: th.Tensor) -> th.Tensor:
        """Return the scores (B, N, K)."""
        scores: th.Tensor = self.last(self.hidden(x_BNR))
        return scores


def _freeze(layer: nn.Module) -> None:
    """Turn a layer's parameters into buffers of the same names."""
    for name, parameter in list(layer.named_parameters()):
        delattr(layer, name)
        layer.register_buffer(name, parameter.detach())


def make_router(
    in_features: int, num_scores: int, *, hidden: Sequence[int] = (), **kwargs: Any
) -> ScoreRouter:
    """Return a linear router, or one with hidden layers.

    :param in_features: R
    :param num_scores: K
    :param hidden: widths of hidden layers; none: a linear router
    :param kwargs: other arguments of :class:`LinearRouter`
    """
    if hidden:
        return MLPRouter(in_features, hidden, num_scores, **kwargs)
    return LinearRouter(in_features, num_scores, **kwargs)


def check_score_options(options: Mapping[str, Any]) -> None:
    """Check the options of a router that has scores.

    :param options: ``hidden``, ``normalize_router`` and, where there are any, ``bias`` and
        ``router_noise``
    """
    widths("hidden", options["hidden"])
    yes_or_no("normalize_router", options["normalize_router"])
    yes_or_no("bias", options.get("bias", False))
    if "router_noise" in options:
        not_negative("router_noise", options["router_noise"])
