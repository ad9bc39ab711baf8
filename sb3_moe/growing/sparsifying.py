"""Sparse networks: masks drawn for a policy, kept through its training, and regrown.

Shapes: E experts (1 for a dense layer), H units, W weights of one expert's layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel

from sb3_moe.growing.connections import drawn, generator_of, regrown
from sb3_moe.growing.densities import DENSITIES, alive_of
from sb3_moe.growing.sparse_layers import SparseLayer, sparse_layers
from sb3_moe.is_model import model_of_sb3
from sb3_moe.networks import networks_of, uncompiled
from sb3_moe.networks.masks import (
    SEED,
    UPDATES,
    MaskedSteps,
    always,
    apply_masks,
    forget_masks,
    mask_targets,
    masks_in,
    moments_in,
    set_masks,
)

Growth = Literal["random", "gradient"]


def drop_masks(model: BaseAlgorithm) -> None:
    """End sparse training for good: forget the masks that SparseTrainingCallback left.

    They lie in the optimisers, and so in all files of the model. Weights stay as they are, most of
    them zero, until training fills them; experts can be added, removed and merged again. The next
    SparseTrainingCallback draws masks anew. A model without masks stays as it is.

    :param model: of any algorithm, with SB3's policies or ours
    :raises TypeError: if it is no model of SB3's, or its policy of no known class
    """
    model_of_sb3(model)
    for optimizer in networks_of(uncompiled(model.policy)).every_optimizer():
        forget_masks(optimizer)


def counts_of(layers: Sequence[SparseLayer], sparsity: float, densities: str) -> list[int]:
    """Return how many weights of each expert's layer are alive; each network is as sparse.

    :param layers: of a policy
    :param sparsity: share of a network's weights that are zero
    :param densities: ``"erk"`` or ``"uniform"``
    """
    counts: dict[th.Tensor, int] = {}
    for tower in dict.fromkeys(layer.tower for layer in layers):
        own = [layer for layer in layers if layer.tower == tower]
        shapes = [layer.shape for layer in own for _ in range(layer.num_experts)]
        found = iter(DENSITIES[densities](shapes, sparsity))
        for layer in own:
            density, *_ = [next(found) for _ in range(layer.num_experts)]
            counts[layer.weight] = alive_of(layer.shape, density)
    return [counts[layer.weight] for layer in layers]


class SparseNetworks:
    """A policy's masks, and the hooks that keep them while they are attached.

    :param policy: of any algorithm
    :raises ValueError: if it has no layer that can be sparse
    """

    def __init__(self, policy: BaseModel) -> None:
        self.policy = policy
        self.layers = sparse_layers(policy)
        if not self.layers:
            raise ValueError("`policy` must have a linear or convolutional layer, got none")
        self.optimizers = networks_of(policy).every_optimizer()
        self._steps: list[MaskedSteps] = []

    def begin(self, counts: Sequence[int], seed: int, *, rescale: bool) -> None:
        """Draw masks, unless there are some: of a run that goes on.

        :param counts: how many weights of each expert's layer are alive
        :param seed: for the masks, and what is grown later
        :param rescale: scale what is alive up, so that what units read stays as large as it was
        :raises ValueError: if there are masks with other counts, or frozen experts to draw some for
        """
        if any(masks_in(optimizer) for optimizer in self.optimizers):
            self._check(counts)
            return
        frozen = getattr(self.policy, "frozen_experts", None)
        if frozen:
            raise ValueError(
                "`frozen_experts` must be None when sparse training begins, since masks change "
                f"weights, got {frozen}; thaw them, or freeze them afterwards"
            )
        masks: dict[th.Tensor, th.Tensor] = {}
        generator = generator_of(seed)
        for layer, count in zip(self.layers, counts, strict=True):
            size = layer.weight.numel() // layer.num_experts
            rows = [drawn(size, count, generator) for _ in range(layer.num_experts)]
            mask = th.stack(rows).view_as(layer.weight).to(layer.weight.device)
            masks[layer.weight] = mask
            if rescale:
                _rescale(layer, mask, self._targets_of(layer.weight))
        for optimizer in self.optimizers:
            set_masks(optimizer, masks)
            for group in optimizer.param_groups:
                group[UPDATES], group[SEED] = 0, seed

    def _targets_of(self, weight: th.Tensor) -> list[th.Tensor]:
        pairs = [
            zip(online.parameters(), target.parameters(), strict=True)
            for online, target in networks_of(self.policy).targets().items()
        ]
        return [theirs for pair in pairs for mine, theirs in pair if mine is weight]

    def _check(self, counts: Sequence[int]) -> None:
        masks = self.masks()
        for layer, count in zip(self.layers, counts, strict=True):
            mask = masks.get(layer.weight)
            found = None if mask is None else layer.by_expert(mask).sum(1).tolist()
            if found != [count] * layer.num_experts:
                raise ValueError(
                    "`sparsity` and `densities` must be those that the model's masks were drawn "
                    f"with: a layer of {layer.tower} must have {count} weights alive, and the "
                    f"masks say {found}"
                )

    def attach(
        self,
        is_due: Callable[[int], bool],
        regrow: Callable[[Any], None],
        lasts: Callable[[], bool] = always,
    ) -> None:
        """Keep the masks from now on; see :class:`~sb3_moe.networks.masks.MaskedSteps`."""
        self._steps = [
            MaskedSteps(optimizer, is_due, regrow, lasts)
            for optimizer in self.optimizers
            if masks_in(optimizer)
        ]
        for optimizer in self.optimizers:
            mask_targets(self.policy, masks_in(optimizer))

    def detach(self) -> None:
        """Keep them no longer; weights and masks stay as they are."""
        for steps in self._steps:
            steps.detach()
        self._steps = []

    def masks(self) -> Mapping[th.Tensor, th.Tensor]:
        """Return all masks by parameter."""
        return {p: mask for each in self.optimizers for p, mask in masks_in(each).items()}

    def alive(self) -> dict[str, int]:
        """Return how many weights of each network the masks let live."""
        masks, counts = self.masks(), dict.fromkeys((each.tower for each in self.layers), 0)
        for layer in self.layers:
            counts[layer.tower] += int(masks[layer.weight].sum())
        return counts

    @th.no_grad()
    def regrow(self, optimizer: th.optim.Optimizer, fraction: float, growth: Growth) -> int:
        """Drop the smallest weights of each layer and let as many others grow, from zero.

        An expert that got no gradient in the last step keeps its connections: nothing tells which
        it needs, and ``freeze_idle`` promises that it stays as it is.

        :param optimizer: that has just stepped
        :param fraction: of a layer's living weights
        :param growth: whether chance or the gradient's size picks what grows
        :return: how many connections are new
        """
        masks, moments = masks_in(optimizer), moments_in(optimizer)
        group = optimizer.param_groups[0]
        number = self.optimizers.index(optimizer)
        generator = generator_of(group[SEED], number + 1, group[UPDATES])
        new = 0
        for layer in self.layers:
            mask, gradient = masks.get(layer.weight), layer.weight.grad
            if mask is None or gradient is None:
                continue
            before = mask.clone()
            rows = [layer.by_expert(each) for each in (layer.weight, mask, gradient)]
            for weight_W, mask_W, gradient_W in zip(*rows, strict=True):
                if gradient_W.any():
                    scores_W = _scores(gradient_W, growth, generator)
                    number = int(fraction * int(mask_W.sum()))
                    mask_W.copy_(regrown(weight_W, mask_W, number, scores_W))
            born = mask & ~before
            for tensor in (layer.weight, *moments.get(layer.weight, ())):
                tensor.masked_fill_(born, 0.0)
            new += int(born.sum())
        # Not of another optimiser: SAC's actor has run already when its critics step.
        apply_masks(optimizer)
        mask_targets(self.policy, masks)
        return new


def _scores(gradient_W: th.Tensor, growth: Growth, generator: th.Generator) -> th.Tensor:
    """Return how much each connection is wanted."""
    if growth == "gradient":
        return gradient_W.abs()
    return th.rand(len(gradient_W), generator=generator).to(gradient_W.device)


@th.no_grad()
def _rescale(layer: SparseLayer, mask: th.Tensor, targets: Sequence[th.Tensor]) -> None:
    """Make up for the inputs that each unit loses (Evci et al. 2022, arXiv 2010.03533).

    :param targets: weights that follow the layer's
    """
    alive = layer.by_unit(mask).flatten(2)
    factors = (alive.shape[2] / alive.sum(2).clamp(min=1)).sqrt()
    for weight in (layer.weight, *targets):
        by_unit = layer.by_unit(weight)
        by_unit.mul_(factors.view(*factors.shape, *[1] * (by_unit.dim() - 2)))
