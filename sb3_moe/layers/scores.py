"""From a token to a score for each expert, or for each slot of each expert.

Shapes: R features that the router sees, E experts, K scores.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch as th
from torch import Tensor, nn

from sb3_moe.layers.checks import widths
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import MoELayer, RouterInput


class LinearScores(nn.Module):
    """Score experts or slots by a linear map without bias (the Phi of Soft MoE).

    The weight is not an ``nn.Linear``, whose weights SB3's orthogonal init would overwrite.

    :param in_features: R
    :param num_scores: K, the number of experts, or experts times slots
    :param normalize: L2-normalize tokens and weights and scale by one learned number
        (arXiv 2308.00951, section 2.3)
    :param noise: standard deviation of Gaussian noise on the scores while training
    :param bias: add a number to each score, 0 at first
    """

    weight_RK: Tensor
    bias_K: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_scores: int,
        *,
        normalize: bool = False,
        noise: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.noise = noise
        self.weight_RK = nn.Parameter(th.randn(in_features, num_scores) / math.sqrt(in_features))
        self.bias_K = nn.Parameter(th.zeros(num_scores)) if bias else None
        self.scale = nn.Parameter(th.ones(())) if normalize else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, (..., R) to (..., K)."""
        weight_RK = self.weight_RK
        if self.scale is not None:
            x = x / (x.norm(dim=-1, keepdim=True) + 1e-6)
            weight_RK = self.scale * weight_RK / (weight_RK.norm(dim=0, keepdim=True) + 1e-6)
        logits = x @ weight_RK
        if self.bias_K is not None:
            logits = logits + self.bias_K
        if self.noise and self.training:
            logits = logits + self.noise * th.randn_like(logits)
        return logits


def _freeze(network: nn.Module) -> None:
    """Turn a network's parameters into buffers of the same names."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())


class ScoredMoE(MoELayer):
    """A mixture whose gates are made from scores: of a linear map, or with hidden layers before it.

    :param experts: the experts
    :param router_input: the sizes that the router is built for
    :param num_slots: slots per expert, each with a score of its own
    :param hidden: widths of the router's hidden layers
    :param normalize_router: L2-normalize tokens and router weights, with one learned scale
    :param router_noise: standard deviation of Gaussian noise on the scores while training
    :param bias: add a number to each score, 0 at first
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of range
    """

    losses = frozenset({"balance", "importance", "z"})
    axes: ClassVar = {"weight_RK": 1, "bias_K": 0}
    #: Whether the router keeps its random weights and never learns: a control.
    frozen_scores = False

    def __init__(
        self,
        experts: Experts,
        router_input: RouterInput,
        num_slots: int = 1,
        *,
        hidden: Sequence[int] = (),
        normalize_router: bool = False,
        router_noise: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(experts)
        widths("hidden", hidden)
        num_scores = self.num_experts * num_slots
        features = router_input.features
        layers = list[nn.Module]()
        for width in hidden:
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        self.router: nn.Module = LinearScores(
            features, num_scores, normalize=normalize_router, noise=router_noise, bias=bias
        )
        if hidden:
            self.router = nn.Sequential(*layers, self.router)
        if self.frozen_scores:
            _freeze(self.router)

    @property
    def scores(self) -> LinearScores:
        """The router's last layer, the only one with an axis over scores."""
        *_, last = self.router.modules()
        return last  # type: ignore[return-value]  # as built
