"""From a token to a score for each expert, or for each slot of each expert.

Shapes: R features that the router sees, E experts, K scores.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_moe.layers.checks import not_negative, widths, yes_or_no
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
    :param frozen: keep the random weights as a buffer instead of learning them: a control
    :param bias: add a number to each score, 0 at first
    :raises ValueError: if an argument is out of range
    """

    weight_RK: th.Tensor
    bias_K: th.Tensor | None
    scale: th.Tensor | None

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
        super().__init__()
        not_negative("router_noise", noise)
        self.num_scores = num_scores
        self.noise = noise
        self._keep("weight_RK", th.randn(in_features, num_scores) / math.sqrt(in_features), frozen)
        self._keep("bias_K", th.zeros(num_scores) if bias else None, frozen)
        self._keep("scale", th.ones(()) if normalize else None, frozen)

    def _keep(self, name: str, tensor: th.Tensor | None, frozen: bool) -> None:
        if frozen:
            self.register_buffer(name, tensor)
        else:
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor))

    def score_axes(self) -> dict[str, int]:
        """Return the names of the tensors with an axis over scores, and which axis it is."""
        return {"weight_RK": 1} | ({} if self.bias_K is None else {"bias_K": 0})

    def forward(self, x: th.Tensor) -> th.Tensor:
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


class MLPScores(nn.Module):
    """Score experts or slots by hidden layers with ReLU and a :class:`LinearScores` behind them.

    :param in_features: R
    :param hidden: widths of the hidden layers
    :param num_scores: K
    :param frozen: keep all weights as buffers instead of learning them: a control
    :param kwargs: other arguments of :class:`LinearScores`
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
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU()]
            in_features = width
        self.hidden = nn.Sequential(*layers)
        self.last = LinearScores(in_features, num_scores, frozen=frozen, **kwargs)
        if frozen:
            for layer in layers[::2]:
                _freeze(layer)

    @property
    def num_scores(self) -> int:
        """K."""
        return self.last.num_scores

    def score_axes(self) -> dict[str, int]:
        """Return those of the last layer, the only ones with an axis over scores."""
        return {f"last.{name}": axis for name, axis in self.last.score_axes().items()}

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Return the scores, (..., R) to (..., K)."""
        scores: th.Tensor = self.last(self.hidden(x))
        return scores


def _freeze(layer: nn.Module) -> None:
    """Turn a layer's parameters into buffers of the same names."""
    for name, parameter in list(layer.named_parameters()):
        delattr(layer, name)
        layer.register_buffer(name, parameter.detach())


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

    losses: ClassVar[frozenset[str]] = frozenset({"balance", "importance", "z"})
    #: Whether the router keeps its random weights and never learns: a control.
    frozen_scores: ClassVar[bool] = False

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
        yes_or_no("normalize_router", normalize_router)
        yes_or_no("bias", bias)
        num_scores = self.num_experts * num_slots
        own: dict[str, Any] = {"normalize": normalize_router, "noise": router_noise, "bias": bias}
        own["frozen"] = self.frozen_scores
        self.router: LinearScores | MLPScores
        if hidden:
            self.router = MLPScores(router_input.features, hidden, num_scores, **own)
        else:
            self.router = LinearScores(router_input.features, num_scores, **own)

    def expert_axes(self) -> dict[str, int]:
        """Return the names of the tensors with an axis over scores, and which axis it is."""
        return {f"router.{name}": axis for name, axis in self.router.score_axes().items()}
